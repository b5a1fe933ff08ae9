# What a container may do where AppArmor is on, beside what capabilities, the system-call filter and the mounts
# already say. NAME is put in when it is loaded.
profile NAME flags=(attach_disconnected, mediate_deleted) {
  file,
  network,
  # The kernel's ciphers, of which a filter cannot see that 32-bit programs ask for them.
  deny network alg,
  capability,
  umount,

  # From the shim and the node's administrator, and among each other.
  signal (receive) peer=unconfined,
  signal (send, receive) peer=NAME,
  ptrace (trace, read, tracedby, readby) peer=NAME,

  # Also for one that was given SYS_ADMIN.
  deny mount,

  # What steers the machine, should it ever be seen unmasked.
  deny /proc/sysrq-trigger rwklx,
  deny /proc/kcore rwklx,
  deny /proc/kmem rwklx,
  deny /proc/mem rwklx,
  deny /proc/acpi/** wklx,
  deny /proc/bus/** wklx,
  deny /proc/fs/** wklx,
  deny /proc/irq/** wklx,
  deny /proc/scsi/** wklx,
  deny /proc/sys/fs/** wklx,
  deny /proc/sys/vm/** wklx,
  # Of the kernel's parameters those of the container's own namespaces stay.
  deny /proc/sys/kernel/[^smd]** wklx,
  deny /proc/sys/kernel/s[^he]** wklx,
  deny /proc/sys/kernel/m[^s]** wklx,
  deny /proc/sys/kernel/d[^o]** wklx,
  deny /sys/kernel/security/** rwklx,
  deny /sys/firmware/** rwklx,
  deny /sys/kernel/** wklx,
  deny /sys/module/** wklx,
  deny /sys/power/** wklx,
  deny /sys/bus/** wklx,
  deny /sys/class/** wklx,
  deny /sys/devices/** wklx,
}
