# SPDX-License-Identifier: GPL-3.0-or-later
"""Processes of our own in which system calls fail, or limits hold."""

import os
import ctypes
import platform

from concurrent.futures import ThreadPoolExecutor
from public import public


# The numbers of flock(2).
FLOCK = {'x86_64': 73, 'aarch64': 32}.get(platform.machine())
public(FLOCK=FLOCK)

# The number of setresuid(2).
_SETRESUID = {'x86_64': 117, 'aarch64': 147}.get(platform.machine())
#: True if we can be another user.
CAN_BECOME = _SETRESUID is not None and os.geteuid() == 0
public(CAN_BECOME=CAN_BECOME)

PR_CAPBSET_DROP = 24
PR_SET_SECUREBITS, PR_CAP_AMBIENT, PR_CAP_AMBIENT_RAISE = 28, 47, 2
# Capabilities do not depend on the user's id, and access(2), by which Mailman
# and Alembic ask whether a file is there, heeds them.
SECBIT_NO_SETUID_FIXUP = 4
CAPABILITY_VERSION_3 = 0x20080522
# CAP_CHOWN, CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH and CAP_FOWNER.
OF_FILES = 0, 1, 2, 3
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
    return _in_thread(lambda libc: _deny(libc, call, error), start)


@public
def start_as(user, start):
    """Start a process as a user that may do with files what root may.

    Root has no limit of threads.  The process reads what lies in a directory
    that only root may enter, so the tests may be there.

    :param user: The user's id.
    :param start: Called without arguments, to start the process.
    :return: What `start` returned.
    """
    def prepare(libc):
        _check(libc.prctl(PR_SET_SECUREBITS, SECBIT_NO_SETUID_FIXUP, 0, 0, 0))
        _become(libc, user)
        mask = sum(1 << capability for capability in OF_FILES)
        # Effective, permitted and inheritable; of 64 bits the lower half.
        _check(libc.capset(
            (ctypes.c_uint32 * 2)(CAPABILITY_VERSION_3, 0),
            (ctypes.c_uint32 * 6)(mask, mask, mask, 0, 0, 0)))
        for capability in OF_FILES:
            _check(libc.prctl(
                PR_CAP_AMBIENT, PR_CAP_AMBIENT_RAISE, capability, 0, 0))
    return _in_thread(prepare, start)


@public
def start_without_rights(start):
    """Start a process that may read only what its user has a right to.

    It is of no user but ours, root among them, and can import the tests.

    :param start: Called without arguments, to start the process.
    :return: What `start` returned.
    """
    def prepare(libc):
        if os.geteuid() == 0:
            for capability in OF_FILES:
                _check(libc.prctl(PR_CAPBSET_DROP, capability, 0, 0, 0))
    return _in_thread(prepare, start)


@public
def call_as(user, function):
    """Call a function as a user without any privilege.

    :param user: The user's id.
    :return: What the function returned.
    """
    return _in_thread(lambda libc: _become(libc, user), function)


def _become(libc, user):
    # The library's own function would change all threads.
    _check(libc.syscall(_SETRESUID, user, user, user))


def _in_thread(prepare, function):
    # What is prepared is a thread's own, and its children inherit it.
    def work():
        prepare(ctypes.CDLL(None, use_errno=True))
        return function()
    with ThreadPoolExecutor(1) as executor:
        return executor.submit(work).result()


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
