# SPDX-License-Identifier: GPL-3.0-or-later
"""Processes of our own in which system calls fail, or limits hold."""

import os
import ctypes
import platform
import threading

from public import public


# The numbers of flock(2).
FLOCK = {'x86_64': 73, 'aarch64': 32}.get(platform.machine())
public(FLOCK=FLOCK)

# The number of setresuid(2).
_SETRESUID = {'x86_64': 117, 'aarch64': 147}.get(platform.machine())
# True if `start_limited` can do what it says.
CAN_LIMIT = _SETRESUID is not None and os.geteuid() == 0
public(CAN_LIMIT=CAN_LIMIT)

PR_CAPBSET_DROP, CAP_SYS_ADMIN, CAP_SYS_RESOURCE = 24, 21, 24
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
    return _start_after(lambda libc: _deny(libc, call, error), start)


@public
def start_limited(user, start):
    """Start a process to which RLIMIT_NPROC applies.

    For the kernel root has no such limit, nor has who may raise it.  The
    process keeps root's access to files.

    :param user: The real user id, whose threads are counted.
    :param start: Called without arguments, to start the process.
    :return: What `start` returned.
    """
    def prepare(libc):
        for capability in (CAP_SYS_ADMIN, CAP_SYS_RESOURCE):
            _check(libc.prctl(PR_CAPBSET_DROP, capability, 0, 0, 0))
        # The library's function would change all threads.
        _check(libc.syscall(_SETRESUID, user, 0, 0))
    return _start_after(prepare, start)


def _start_after(prepare, start):
    # What is changed is a thread's own, and its children inherit it.
    results = []

    def work():
        prepare(ctypes.CDLL(None, use_errno=True))
        results.append(start())
    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    return results[0]


def _check(result):
    if result != 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


def _deny(libc, call, error):
    instructions = (_Instruction * 4)(
        _Instruction(LOAD, 0, 0, 0),
        _Instruction(JUMP_IF_EQUAL, 0, 1, call),
        _Instruction(RETURN, 0, 0, ERROR | error),
        _Instruction(RETURN, 0, 0, ALLOW))
    program = _Program(len(instructions), instructions)
    for arguments in ((PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0),
                      (PR_SET_SECCOMP, SECCOMP_MODE_FILTER,
                       ctypes.byref(program))):
        _check(libc.prctl(*arguments))
