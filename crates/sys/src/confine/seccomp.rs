//! A seccomp(2) filter: what neither a jailer nor a VMM ever calls, and what code that took one over would.

use std::io;

#[cfg(target_arch = "x86_64")]
const AUDIT_ARCH: u32 = 0xc000_003e;
#[cfg(target_arch = "aarch64")]
const AUDIT_ARCH: u32 = 0xc000_00b7;

/// Calls of the x32 ABI carry this bit on `x86_64`; other numbers never reach it.
const X32_BIT: u32 = 0x4000_0000;

/// Offsets in `struct seccomp_data`: the call's number, the architecture, the low half of the first argument.
const NUMBER: u32 = 0;
const ARCHITECTURE: u32 = 4;
const FIRST_ARGUMENT: u32 = 16;

/// Other processes' memory and descriptors, keys, tracing, programs in the kernel, and queues of calls that no filter sees.
/// Mounting, signals and devices are not here: namespaces and missing capabilities hold them.
const DENIED: [libc::c_long; 16] = [
    libc::SYS_setns,
    libc::SYS_ptrace,
    libc::SYS_process_vm_readv,
    libc::SYS_process_vm_writev,
    libc::SYS_pidfd_getfd,
    libc::SYS_kcmp,
    libc::SYS_bpf,
    libc::SYS_perf_event_open,
    libc::SYS_add_key,
    libc::SYS_request_key,
    libc::SYS_keyctl,
    libc::SYS_open_by_handle_at,
    libc::SYS_personality,
    libc::SYS_io_uring_setup,
    libc::SYS_io_uring_enter,
    libc::SYS_io_uring_register,
];

fn number(call: libc::c_long) -> u32 {
    u32::try_from(call).expect("calls have small numbers")
}

fn statement(code: u32, k: u32) -> libc::sock_filter {
    libc::sock_filter { code: u16::try_from(code).expect("codes have 16 bits"), jt: 0, jf: 0, k }
}

/// Goes on with the next statement when the comparison holds, else skips one.
fn unless_skip(comparison: u32, k: u32) -> libc::sock_filter {
    libc::sock_filter { jf: 1, ..statement(libc::BPF_JMP | comparison | libc::BPF_K, k) }
}

/// The filter. No socket but Unix ones, and no user namespace: in one, an ordinary user has every capability over what it makes there.
fn program() -> Vec<libc::sock_filter> {
    let load = |offset| statement(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, offset);
    let answer = |verdict| statement(libc::BPF_RET | libc::BPF_K, verdict);
    let refuse = |errno: i32| answer(libc::SECCOMP_RET_ERRNO | u32::try_from(errno).expect("errors are positive"));
    let new_user = u32::try_from(libc::CLONE_NEWUSER).expect("the flag is positive");

    let mut program = vec![load(ARCHITECTURE)];
    // Skips the verdict when the architecture is ours.
    program.push(libc::sock_filter { jt: 1, jf: 0, ..unless_skip(libc::BPF_JEQ, AUDIT_ARCH) });
    program.push(answer(libc::SECCOMP_RET_KILL_PROCESS));
    program.push(load(NUMBER));
    program.extend([unless_skip(libc::BPF_JGE, X32_BIT), refuse(libc::EPERM)]);
    for call in DENIED {
        program.extend([unless_skip(libc::BPF_JEQ, number(call)), refuse(libc::EPERM)]);
    }
    // Its flags are in memory, where a filter cannot look; C libraries fall back to clone(2).
    program.extend([unless_skip(libc::BPF_JEQ, number(libc::SYS_clone3)), refuse(libc::ENOSYS)]);
    // A VMM's network is its tap: it has no use for the host's own, where it may see that.
    let unix = u32::try_from(libc::AF_UNIX).expect("the family is positive");
    let skip = |count| libc::sock_filter { jf: count, ..unless_skip(libc::BPF_JEQ, number(libc::SYS_socket)) };
    program.extend([skip(4), load(FIRST_ARGUMENT), unless_skip(libc::BPF_JEQ, unix)]);
    program.extend([answer(libc::SECCOMP_RET_ALLOW), refuse(libc::EPERM)]);
    // Of the two that are left, only with that flag.
    let is_unshare = libc::sock_filter { jt: 1, jf: 0, ..unless_skip(libc::BPF_JEQ, number(libc::SYS_unshare)) };
    program.extend([is_unshare, unless_skip(libc::BPF_JEQ, number(libc::SYS_clone))]);
    let to_flags = statement(libc::BPF_JMP | libc::BPF_JA, 1);
    program.extend([to_flags, answer(libc::SECCOMP_RET_ALLOW), load(FIRST_ARGUMENT)]);
    program.extend([unless_skip(libc::BPF_JSET, new_user), refuse(libc::EPERM), answer(libc::SECCOMP_RET_ALLOW)]);
    program
}

/// Refuses from now on, to this process and every program it becomes, what is listed above, sockets of networks, user
/// namespaces, and calls of other architectures. `no_new_privs` must be set.
///
/// # Errors
/// When the kernel has no such filters, or this process may not.
pub fn deny_escapes() -> io::Result<()> {
    let mut program = program();
    let length = u16::try_from(program.len()).expect("the program is short");
    let filter = libc::sock_fprog { len: length, filter: program.as_mut_ptr() };
    // SAFETY: the kernel reads `length` statements through the pointer, which outlives the call.
    let result = unsafe { libc::prctl(libc::PR_SET_SECCOMP, libc::SECCOMP_MODE_FILTER, &raw const filter) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Runs the program on one call as the kernel would.
    fn verdict(call: u32, architecture: u32, first: u32) -> u32 {
        let (program, mut at, mut loaded) = (program(), 0, 0);
        loop {
            let step = program[at];
            at += 1;
            match u32::from(step.code) {
                code if code == libc::BPF_LD | libc::BPF_W | libc::BPF_ABS => {
                    loaded = match step.k {
                        NUMBER => call,
                        ARCHITECTURE => architecture,
                        FIRST_ARGUMENT => first,
                        other => panic!("it reads at {other}"),
                    };
                }
                code if code == libc::BPF_RET | libc::BPF_K => return step.k,
                code if code == libc::BPF_JMP | libc::BPF_JA => at += step.k as usize,
                code => {
                    let holds = match code & 0xf0 {
                        libc::BPF_JEQ => loaded == step.k,
                        libc::BPF_JGE => loaded >= step.k,
                        libc::BPF_JSET => loaded & step.k != 0,
                        other => panic!("it compares by {other}"),
                    };
                    at += usize::from(if holds { step.jt } else { step.jf });
                }
            }
        }
    }

    #[test]
    fn escapes_are_refused_and_the_rest_is_not() {
        let refused = |errno: i32| libc::SECCOMP_RET_ERRNO | u32::try_from(errno).unwrap();
        let of = |call: libc::c_long, first: i32| verdict(number(call), AUDIT_ARCH, u32::try_from(first).unwrap());
        for call in DENIED {
            assert_eq!(of(call, 0), refused(libc::EPERM), "{call}");
        }
        assert_eq!(of(libc::SYS_clone3, 0), refused(libc::ENOSYS));
        for call in [libc::SYS_unshare, libc::SYS_clone] {
            assert_eq!(of(call, libc::CLONE_NEWUSER), refused(libc::EPERM));
            assert_eq!(of(call, libc::CLONE_NEWUSER | libc::CLONE_NEWNS), refused(libc::EPERM));
            assert_eq!(of(call, libc::CLONE_NEWNS), libc::SECCOMP_RET_ALLOW);
        }
        assert_eq!(of(libc::SYS_socket, libc::AF_UNIX), libc::SECCOMP_RET_ALLOW);
        for family in
            [libc::AF_UNSPEC, libc::AF_INET, libc::AF_INET6, libc::AF_NETLINK, libc::AF_PACKET, libc::AF_VSOCK]
        {
            assert_eq!(of(libc::SYS_socket, family), refused(libc::EPERM), "{family}");
        }
        for call in [libc::SYS_read, libc::SYS_ioctl, libc::SYS_execve, libc::SYS_mount, libc::SYS_exit_group] {
            assert_eq!(of(call, libc::CLONE_NEWUSER), libc::SECCOMP_RET_ALLOW);
        }
        assert_eq!(verdict(number(libc::SYS_read) | X32_BIT, AUDIT_ARCH, 0), refused(libc::EPERM));
        assert_eq!(verdict(number(libc::SYS_read), AUDIT_ARCH ^ 1, 0), libc::SECCOMP_RET_KILL_PROCESS);
    }
}
