//! System calls that a receiver never makes, and that what it keeps would allow or Landlock does not know of.
//!
//! They fail as for somebody who has no right to them. Files are Landlock's: what a path is, a filter of calls cannot see.

use std::collections::BTreeMap;
use std::io;

use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter,
    SeccompRule, TargetArch,
};

/// Running programs, other processes and what they share or serve (by a local socket others do as root says), mounts and
/// name spaces, the kernel itself, the clock and names of this host, keys, and ways to make calls or open files past a filter.
const NEVER: &[libc::c_long] = &[
    libc::SYS_execve,
    libc::SYS_execveat,
    libc::SYS_ptrace,
    libc::SYS_process_vm_readv,
    libc::SYS_process_vm_writev,
    libc::SYS_pidfd_getfd,
    libc::SYS_kcmp,
    libc::SYS_mount,
    libc::SYS_umount2,
    libc::SYS_pivot_root,
    libc::SYS_chroot,
    libc::SYS_move_mount,
    libc::SYS_open_tree,
    libc::SYS_fsopen,
    libc::SYS_fsconfig,
    libc::SYS_fsmount,
    libc::SYS_fspick,
    libc::SYS_mount_setattr,
    libc::SYS_setns,
    libc::SYS_unshare,
    libc::SYS_bpf,
    libc::SYS_perf_event_open,
    libc::SYS_init_module,
    libc::SYS_finit_module,
    libc::SYS_delete_module,
    libc::SYS_kexec_load,
    libc::SYS_reboot,
    libc::SYS_swapon,
    libc::SYS_swapoff,
    libc::SYS_syslog,
    libc::SYS_acct,
    libc::SYS_quotactl,
    libc::SYS_sethostname,
    libc::SYS_setdomainname,
    libc::SYS_settimeofday,
    libc::SYS_clock_settime,
    libc::SYS_adjtimex,
    libc::SYS_clock_adjtime,
    libc::SYS_add_key,
    libc::SYS_request_key,
    libc::SYS_keyctl,
    libc::SYS_userfaultfd,
    libc::SYS_open_by_handle_at,
    libc::SYS_fanotify_init,
    libc::SYS_io_uring_setup,
    libc::SYS_io_uring_enter,
    libc::SYS_io_uring_register,
    libc::SYS_vhangup,
    libc::SYS_connect,
    libc::SYS_shmget,
    libc::SYS_shmat,
    libc::SYS_msgget,
    libc::SYS_semget,
    libc::SYS_mq_open,
    libc::SYS_personality,
    libc::SYS_nfsservctl,
];

/// From now on these calls fail, sockets are local ones, and there are threads and no further processes: one that goes on
/// when this one is ended would write beside whoever owns the node then.
pub(super) fn only_needed() -> io::Result<()> {
    for program in [no_new_clone(), never()] {
        let program = program.map_err(io::Error::other)?;
        seccompiler::apply_filter(&program).map_err(io::Error::other)?;
    }
    Ok(())
}

/// The newer call to start a thread hides from a filter what is started. Where a kernel does not know it the older one is
/// used.
fn no_new_clone() -> Result<BpfProgram, seccompiler::BackendError> {
    let rules = BTreeMap::from([(libc::SYS_clone3, Vec::new())]);
    filter(rules, libc::ENOSYS)
}

fn filter(
    rules: BTreeMap<i64, Vec<SeccompRule>>,
    error: libc::c_int,
) -> Result<BpfProgram, seccompiler::BackendError> {
    let refused = SeccompAction::Errno(error.unsigned_abs());
    let arch = TargetArch::try_from(std::env::consts::ARCH)?;
    SeccompFilter::new(rules, SeccompAction::Allow, refused, arch)?.try_into()
}

fn never() -> Result<BpfProgram, seccompiler::BackendError> {
    let mut rules: BTreeMap<i64, Vec<SeccompRule>> =
        NEVER.iter().map(|call| (*call, Vec::new())).collect();
    let first_is_not = |value: u32| {
        let other = SeccompCmpOp::Ne;
        let differs = SeccompCondition::new(0, SeccompCmpArgLen::Dword, other, value.into())?;
        Ok::<_, seccompiler::BackendError>(vec![SeccompRule::new(vec![differs])?])
    };
    rules.insert(
        libc::SYS_socket,
        first_is_not(libc::AF_UNIX.unsigned_abs())?,
    );
    // The limits of this process are its own to ask for; 0 stands for it.
    rules.insert(libc::SYS_prlimit64, first_is_not(0)?);
    let thread = u64::from(libc::CLONE_THREAD.unsigned_abs());
    let masked = SeccompCmpOp::MaskedEq(thread);
    let no_thread = SeccompCondition::new(0, SeccompCmpArgLen::Dword, masked, 0)?;
    rules.insert(libc::SYS_clone, vec![SeccompRule::new(vec![no_thread])?]);
    #[cfg(target_arch = "x86_64")]
    for old in [libc::SYS_fork, libc::SYS_vfork] {
        rules.insert(old, Vec::new());
    }
    filter(rules, libc::EPERM)
}
