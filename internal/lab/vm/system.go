package vm

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"
)

// SystemOptions say what to do on a whole Debian system.
type SystemOptions struct {
	// Files are added to the system before each boot: path to content. Those
	// below a bin or sbin directory are made executable.
	Files map[string][]byte
	// Script runs as root, by bash, at the end of each boot, with the number of
	// the boot, from 1 on, in $BOOT. What it prints is returned. It must end
	// with "systemctl reboot" or "systemctl poweroff".
	Script string
	// VirtualTime lets the guest's clock jump over idle time.
	VirtualTime bool
	// Timeout bounds all boots together in real time; 10 minutes if zero.
	Timeout time.Duration
}

const (
	systemSuite = "bookworm"
	// debootstrap does not follow alternatives: polkitd, which firewalld needs,
	// depends on "default-logind | logind", and only libpam-systemd provides it.
	systemPackages = "systemd-sysv,udev,kmod,procps,iproute2,nftables,iptables,conntrack,ufw,dbus,libpam-systemd,firewalld"
	systemAge      = 30 * 24 * time.Hour
	systemSize     = "1200M"
	systemModules  = "virtio_pci virtio_blk ext4"
	overlayDir     = "overlay"
	systemMode     = "system"
)

// RunSystem boots a Debian system of the suite bookworm, made by debootstrap
// once and cached, with this kernel, and returns what the script printed. The
// system's disk lives as long as the call: reboots keep it, the next call
// begins anew.
func (k Kernel) RunSystem(ctx context.Context, dir string, o SystemOptions) (string, error) {
	if o.Timeout == 0 {
		o.Timeout = 10 * time.Minute
	}
	image, err := k.systemImage(ctx)
	if err != nil {
		return "", err
	}
	initrd, err := k.systemInitramfs(ctx, dir, &o)
	if err != nil {
		return "", err
	}
	ctx, cancel := context.WithTimeout(ctx, o.Timeout)
	defer cancel()
	// The login prompt owns the first serial port; the script has the second.
	printed := filepath.Join(dir, "printed")
	args := []string{"-nodefaults", "-no-user-config", "-display", "none", "-m", "1024", "-serial", "stdio", "-serial", "file:" + printed,
		"-accel", "tcg", "-cpu", "max", "-kernel", k.Image, "-initrd", initrd, "-smp", "1",
		"-drive", "file=" + image + ",if=virtio,format=raw,snapshot=on",
		"-append", "console=ttyS0 loglevel=1 panic=-1 no_timer_check net.ifnames=0 systemd.show_status=0 systemd.log_target=kmsg " + guestEnv + "=" + systemMode}
	if o.VirtualTime {
		args = append(args, "-icount", "shift=auto,sleep=off")
	}
	cmd := exec.CommandContext(ctx, "qemu-system-x86_64", args...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		return "", err
	}
	if err := cmd.Start(); err != nil {
		return "", fmt.Errorf("start qemu: %w", err)
	}
	console, _ := readConsole(stdout)
	err = cmd.Wait()
	out, readErr := os.ReadFile(printed)
	text := strings.ReplaceAll(string(out), "\r", "")
	if ctx.Err() != nil {
		return text, fmt.Errorf("system did not power off within %s; console: %s", o.Timeout, lastLines(console, 10))
	}
	return text, errors.Join(err, readErr)
}

// systemInitramfs packs this package's test binary as init, which mounts the
// disk, lays the files over it and hands over to systemd.
func (k Kernel) systemInitramfs(ctx context.Context, dir string, o *SystemOptions) (string, error) {
	binary, _, err := testBinary(ctx, "./internal/lab/vm")
	if err != nil {
		return "", err
	}
	mods, err := resolveModules(k.Modules, strings.Fields(systemModules))
	if err != nil {
		return "", err
	}
	tree := filepath.Join(dir, overlayDir)
	files := map[string][]byte{
		"/usr/local/sbin/lab-run":                          []byte(runText),
		"/usr/local/sbin/lab-script":                       []byte(o.Script),
		"/etc/systemd/system/lab.service":                  []byte(unitText),
		"/etc/systemd/system/multi-user.target.d/lab.conf": []byte("[Unit]\nWants=lab.service\n"),
	}
	for p, data := range o.Files {
		files[p] = data
	}
	for p, data := range files {
		mode := os.FileMode(0o644)
		if strings.Contains(p, "/bin/") || strings.Contains(p, "/sbin/") {
			mode = 0o755
		}
		host := filepath.Join(tree, p)
		if err := os.MkdirAll(filepath.Dir(host), 0o755); err != nil {
			return "", err
		}
		if err := os.WriteFile(host, data, mode); err != nil {
			return "", err
		}
	}
	out := filepath.Join(dir, "system.cpio")
	return out, writeInitramfs(out, binary, mods, &Options{Files: map[string]string{overlayDir: tree}})
}

const unitText = `[Unit]
Description=runs the laboratory's script
After=systemd-sysctl.service network.target
[Service]
Type=idle
ExecStart=/usr/local/sbin/lab-run
`

const runText = `#!/bin/bash
exec >/dev/ttyS1 2>&1
export PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin HOME=/root
BOOT=$(( $(cat /var/lib/lab-boots 2>/dev/null || echo 0) + 1 ))
echo $BOOT > /var/lib/lab-boots
sync
export BOOT
echo "=== boot $BOOT"
if [ $BOOT -gt 6 ]; then echo "too many boots"; systemctl poweroff; exit; fi
bash /usr/local/sbin/lab-script
echo "=== end $BOOT"
sync
`

// ErrNoSystem says that no Debian system could be made.
var ErrNoSystem = errors.New("no debian system to boot")

// systemImage returns the file system of a minimal Debian with this kernel's
// modules, made once.
func (k Kernel) systemImage(ctx context.Context) (string, error) {
	cache, err := Cache()
	if err != nil {
		return "", err
	}
	unlock, err := lockFile(filepath.Join(cache, "lock-system"))
	if err != nil {
		return "", err
	}
	defer unlock()
	image := filepath.Join(cache, systemName()+"-"+k.Release+".ext4")
	if st, err := os.Stat(image); err == nil && time.Since(st.ModTime()) < systemAge {
		return image, nil
	}
	tree, err := systemTree(ctx, cache)
	if err != nil {
		return "", fmt.Errorf("%w: %w", ErrNoSystem, err)
	}
	if err := k.installModules(ctx, tree); err != nil {
		return "", err
	}
	tmp := image + ".new"
	_ = os.Remove(tmp)
	if out, err := exec.CommandContext(ctx, "mke2fs", "-q", "-t", "ext4", "-d", tree, tmp, systemSize).CombinedOutput(); err != nil {
		return "", fmt.Errorf("make the disk: %w: %s", err, lastLines(string(out), 3))
	}
	return image, os.Rename(tmp, image)
}

// systemName tells systems of other packages apart in the cache.
func systemName() string {
	sum := sha256.Sum256([]byte(systemPackages + strings.Join(unneededModules, ",")))
	return fmt.Sprintf("system-%s-%x", systemSuite, sum[:4])
}

// offAtBoot are links in /etc/systemd/system of services that a test starts
// when it wants them.
var offAtBoot = []string{"multi-user.target.wants/firewalld.service", "dbus-org.fedoraproject.FirewallD1.service"}

// systemTree is the unpacked system, made by debootstrap once.
func systemTree(ctx context.Context, cache string) (string, error) {
	tree := filepath.Join(cache, systemName())
	if isDir(tree) {
		return tree, nil
	}
	mirror, err := configuredMirror()
	if err != nil {
		return "", err
	}
	tmp := tree + ".new"
	if err := os.RemoveAll(tmp); err != nil {
		return "", err
	}
	cmd := exec.CommandContext(ctx, "debootstrap", "--variant=minbase", "--include="+systemPackages, systemSuite, tmp, mirror)
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("debootstrap: %w: %s", err, lastLines(string(out), 3))
	}
	junk := []string{"var/cache/apt/archives", "var/lib/apt/lists", "usr/share/doc", "usr/share/locale", "usr/share/man"}
	for _, link := range offAtBoot {
		junk = append(junk, filepath.Join("etc/systemd/system", link))
	}
	for _, junk := range junk {
		if err := os.RemoveAll(filepath.Join(tmp, junk)); err != nil {
			return "", err
		}
	}
	return tree, os.Rename(tmp, tree)
}

// unneededModules are drivers that udev would load for the emulated machine, at
// the cost of half a minute a boot.
var unneededModules = []string{"arch/x86/kvm", "arch/x86/crypto", "drivers/ata", "drivers/scsi", "drivers/cpufreq",
	"drivers/input", "drivers/acpi", "drivers/gpu", "drivers/usb", "sound"}

// installModules puts the kernel's network and disk modules where modprobe
// looks for them.
func (k Kernel) installModules(ctx context.Context, tree string) error {
	dir := filepath.Join(tree, "usr/lib/modules", k.Release)
	if err := os.RemoveAll(dir); err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(dir), 0o755); err != nil {
		return err
	}
	if out, err := exec.CommandContext(ctx, "cp", "-a", k.Modules, dir).CombinedOutput(); err != nil {
		return fmt.Errorf("copy modules: %w: %s", err, out)
	}
	_ = os.Remove(filepath.Join(dir, "vmlinuz"))
	for _, part := range unneededModules {
		if err := os.RemoveAll(filepath.Join(dir, "kernel", part)); err != nil {
			return err
		}
	}
	if out, err := exec.CommandContext(ctx, "depmod", "-b", tree, k.Release).CombinedOutput(); err != nil {
		return fmt.Errorf("depmod: %w: %s", err, out)
	}
	return nil
}
