//! A process that shuts itself in, without any right to begin with: namespaces of its own through a user namespace, and
//! nothing left of what it could do in them once it becomes another program.
//!
//! [`crate::confine`] is the same for a process that has rights, and holds what both use.

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};

use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketFlags, SocketType, socket_with};
use rustix::process::{Pid, Signal, WaitOptions, getgid, getuid, waitpid};
use rustix::thread::{
    CapabilitiesSecureBits, CapabilitySet, CapabilitySets, UnshareFlags, clear_ambient_capability_set,
    remove_capability_from_bounding_set, set_capabilities, set_capabilities_secure_bits, set_no_new_privs,
};

/// Moves this process into namespaces of its own: users, mounts, network, IPC, host name, cgroups. Its children are born into
/// a new one of processes. User and group keep their numbers, and are the only ones there are; the process has every
/// capability over what it owns there, and none elsewhere. **The calling process must have one thread.**
///
/// # Errors
/// When the kernel, or how it is set up, gives ordinary users no such namespaces.
pub fn unshare_all() -> io::Result<()> {
    let (uid, gid) = (getuid().as_raw(), getgid().as_raw());
    let flags = UnshareFlags::NEWUSER
        | UnshareFlags::NEWNS
        | UnshareFlags::NEWNET
        | UnshareFlags::NEWIPC
        | UnshareFlags::NEWUTS
        | UnshareFlags::NEWCGROUP
        | UnshareFlags::NEWPID;
    // SAFETY: only CLONE_FILES changes what descriptors other threads have.
    unsafe { rustix::thread::unshare_unsafe(flags) }?;
    // Groups that have no number here keep their rights: access to /dev/kvm is one. user_namespaces(7).
    for (file, line) in
        [("setgroups", "deny".to_owned()), ("uid_map", format!("{uid} {uid} 1")), ("gid_map", format!("{gid} {gid} 1"))]
    {
        write_once(&format!("/proc/self/{file}"), &line)?;
    }
    Ok(())
}

/// Has no further user namespaces be made inside this one, whoever asks: `max_user_namespaces` of user_namespaces(7).
///
/// # Errors
/// When `/proc` is not there or not this process's own.
pub fn end_user_namespaces() -> io::Result<()> {
    write_once("/proc/sys/user/max_user_namespaces", "0")
}

/// Keeps the kernel's own IPv6 out of this network namespace: it would talk on every interface. A kernel without IPv6 is
/// fine.
///
/// # Errors
/// When `/proc` is not there or not this process's own.
pub fn silence_ipv6() -> io::Result<()> {
    match write_once("/proc/sys/net/ipv6/conf/default/disable_ipv6", "1") {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

fn write_once(path: &str, text: &str) -> io::Result<()> {
    let file =
        rustix::fs::open(path, rustix::fs::OFlags::WRONLY | rustix::fs::OFlags::CLOEXEC, rustix::fs::Mode::empty())?;
    rustix::io::write(&file, text.as_bytes())?;
    Ok(())
}

/// Gives up every capability, here and in every program this process becomes, and every way to one.
///
/// # Errors
/// When the kernel refuses.
pub fn drop_capabilities() -> io::Result<()> {
    let locked = CapabilitiesSecureBits::NO_ROOT
        | CapabilitiesSecureBits::NO_ROOT_LOCKED
        | CapabilitiesSecureBits::NO_SETUID_FIXUP
        | CapabilitiesSecureBits::NO_SETUID_FIXUP_LOCKED
        | CapabilitiesSecureBits::NO_CAP_AMBIENT_RAISE
        | CapabilitiesSecureBits::NO_CAP_AMBIENT_RAISE_LOCKED;
    set_capabilities_secure_bits(locked)?;
    clear_ambient_capability_set()?;
    // Those that have no name here too.
    for bit in 0..u64::BITS {
        match remove_capability_from_bounding_set(CapabilitySet::from_bits_retain(1 << bit)) {
            // INVAL: one that this kernel does not know.
            Ok(()) | Err(Errno::INVAL) => {}
            Err(errno) => return Err(errno.into()),
        }
    }
    let none = CapabilitySet::empty();
    set_capabilities(None, CapabilitySets { effective: none, permitted: none, inheritable: none })?;
    Ok(set_no_new_privs(true)?)
}

/// Has this process be killed when its parent ends.
///
/// # Errors
/// When the kernel refuses.
pub fn end_with_parent() -> io::Result<()> {
    Ok(rustix::process::set_parent_process_death_signal(Some(Signal::KILL))?)
}

/// Waits for a child's end, and ends this process the same way: with its status, or by its signal.
pub fn end_like(child: u32) -> ! {
    let pid = i32::try_from(child).ok().and_then(Pid::from_raw);
    let status = loop {
        match waitpid(pid, WaitOptions::empty()) {
            Err(Errno::INTR) => {}
            Ok(Some((_, status))) => break Some(status),
            Ok(None) | Err(_) => break None,
        }
    };
    let signal = status.and_then(|status| status.terminating_signal()).and_then(Signal::from_named_raw);
    if let Some(signal) = signal {
        // Rust's runtime handles some, and ignores one.
        // SAFETY: sets a signal's disposition to the default.
        unsafe { libc::signal(signal.as_raw(), libc::SIG_DFL) };
        // One that does not end a process by itself ends this one below.
        let _: rustix::io::Result<()> = rustix::process::kill_process(rustix::process::getpid(), signal);
    }
    crate::spawn::exit_at_once(status.and_then(|status| status.exit_status()).unwrap_or(1))
}

/// Bytes in front of each frame of [`frames`]: `struct virtio_net_hdr` of `linux/virtio_net.h`.
pub const VNET_HEADER_BYTES: usize = 10;
/// `PACKET_VNET_HDR` of `linux/if_packet.h`.
const PACKET_VNET_HDR: libc::c_int = 15;
/// `PACKET_IGNORE_OUTGOING` of `linux/if_packet.h`.
const PACKET_IGNORE_OUTGOING: libc::c_int = 23;

/// Bytes that may wait in [`frames`]; the kernel allows less (`net.core.rmem_max`).
const RECEIVED_BYTES: usize = 8 << 20;

/// A socket for the frames of interface `index`: reading gives each one that comes in from it, writing sends one out, each
/// behind a header of [`VNET_HEADER_BYTES`] that says what of it is not done yet. packet(7)
///
/// # Errors
/// When this process has not the right, which it has in a network namespace of its own.
pub fn frames(index: u32) -> io::Result<OwnedFd> {
    // `ETH_P_ALL`, in the network's order.
    let all = u16::try_from(libc::ETH_P_ALL).expect("a small number").to_be();
    // Without a protocol it hears nothing until it is bound.
    let socket = socket_with(AddressFamily::PACKET, SocketType::RAW, SocketFlags::CLOEXEC, None)?;
    // As much as there may be: what finds no room is lost.
    rustix::net::sockopt::set_socket_recv_buffer_size(&socket, RECEIVED_BYTES)?;
    for option in [PACKET_VNET_HDR, PACKET_IGNORE_OUTGOING] {
        let on: libc::c_int = 1;
        let length = libc::socklen_t::try_from(size_of_val(&on)).expect("4 bytes");
        // SAFETY: reads one int through the pointer, which is valid for that long.
        let set =
            unsafe { libc::setsockopt(socket.as_raw_fd(), libc::SOL_PACKET, option, (&raw const on).cast(), length) };
        if set < 0 {
            return Err(io::Error::last_os_error());
        }
    }
    // SAFETY: every field of this struct may be zero.
    let mut address = unsafe { std::mem::zeroed::<libc::sockaddr_ll>() };
    address.sll_family = libc::sa_family_t::try_from(libc::AF_PACKET).expect("a small number");
    address.sll_protocol = all;
    address.sll_ifindex = i32::try_from(index).map_err(|_| io::ErrorKind::InvalidInput)?;
    let length = libc::socklen_t::try_from(size_of_val(&address)).expect("20 bytes");
    // SAFETY: the address is as long as said and outlives the call.
    if unsafe { libc::bind(socket.as_raw_fd(), (&raw const address).cast(), length) } < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(socket)
}
