# SPDX-License-Identifier: GPL-3.0-or-later
"""System calls that fail in a process of our own, by seccomp(2)."""

import os
import ctypes
import platform
import threading

from public import public


# The numbers of flock(2).
FLOCK = {'x86_64': 73, 'aarch64': 32}.get(platform.machine())
public(FLOCK=FLOCK)

PR_SET_SECCOMP, PR_SET_NO_NEW_PRIVS, SECCOMP_MODE_FILTER = 22, 38, 2
LOAD, JUMP_IF_EQUAL, RETURN = 0x20, 0x15, 0x06
ALLOW, ERROR = 0x7fff0000, 0x00050000


class _Instruction(ctypes.Structure):
    _fields_ = [('code', ctypes.c_uint16), ('true', ctypes.c_uint8),
                ('false', ctypes.c_uint8), ('value', ctypes.c_uint32)]


class _Program(ctypes.Structure):
    _fields_ = [('length', ctypes.c_uint16),
                ('instructions', ctypes.POINTER(_Instruction))]


@public
def start_without(call, error, start):
    """Start a process in which a system call always fails.

    :param call: The number of the system call.
    :param error: The error number.
    :param start: Called without arguments, to start the process.
    :return: What `start` returned.
    """
    # A filter is a thread's own, and its children inherit it.
    results = []

    def work():
        _deny(call, error)
        results.append(start())
    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    return results[0]


def _deny(call, error):
    libc = ctypes.CDLL(None, use_errno=True)
    instructions = (_Instruction * 4)(
        _Instruction(LOAD, 0, 0, 0),
        _Instruction(JUMP_IF_EQUAL, 0, 1, call),
        _Instruction(RETURN, 0, 0, ERROR | error),
        _Instruction(RETURN, 0, 0, ALLOW))
    program = _Program(len(instructions), instructions)
    for arguments in ((PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0),
                      (PR_SET_SECCOMP, SECCOMP_MODE_FILTER,
                       ctypes.byref(program))):
        if libc.prctl(*arguments) != 0:
            raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
