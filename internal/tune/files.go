package tune

// Paths of our own permanent files.
const (
	SysctlPath      = "/etc/sysctl.d/90-ctwarden.conf"
	ModulesLoadPath = "/etc/modules-load.d/ctwarden.conf"
	ModprobePath    = "/etc/modprobe.d/ctwarden.conf"
)
