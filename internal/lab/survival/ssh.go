package survival

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"github.com/ctwarden/ctwarden/internal/lab"
)

const sshPort = 22

// admin is how the administrator reaches a host: a real sshd and keys.
type admin struct {
	host, from *lab.Host
	dir        string
	target     netip.Addr
}

// serveSSH starts sshd on a host, for logins from another. SHLVL keeps bash from
// reading what the machine's own root has in .bashrc.
func serveSSH(t testing.TB, host, from *lab.Host, target netip.Addr) *admin {
	t.Helper()
	a := &admin{host: host, from: from, dir: t.TempDir(), target: target}
	for _, name := range []string{"host", "user"} {
		host.Exec("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", filepath.Join(a.dir, name))
	}
	conf := fmt.Sprintf(`Port %[2]d
HostKey %[1]s/host
AuthorizedKeysFile %[1]s/user.pub
PidFile none
StrictModes no
UsePAM no
UseDNS no
PasswordAuthentication no
PermitRootLogin prohibit-password
PrintMotd no
SetEnv SHLVL=2
`, a.dir, sshPort)
	file := filepath.Join(a.dir, "sshd_config")
	if err := os.WriteFile(file, []byte(conf), 0o600); err != nil {
		t.Fatalf("survival: sshd: %v", err)
	}
	if err := os.MkdirAll("/run/sshd", 0o755); err != nil {
		t.Fatalf("survival: sshd: %v", err)
	}
	host.Start(exec.Command("/usr/sbin/sshd", "-D", "-e", "-f", file))
	for deadline := time.Now().Add(5 * time.Second); ; time.Sleep(20 * time.Millisecond) {
		if out, err := host.TryExec("ss", "-Hltn", "sport", "=", fmt.Sprint(sshPort)); err == nil && out != "" {
			return a
		}
		if time.Now().After(deadline) {
			t.Fatal("survival: sshd does not listen")
		}
	}
}

func (a *admin) command(ctx context.Context, source netip.Addr, args ...string) *exec.Cmd {
	return exec.CommandContext(ctx, "ssh", append([]string{"-F", "none", "-i", filepath.Join(a.dir, "user"),
		"-o", "BatchMode=yes", "-o", "IdentitiesOnly=yes", "-o", "StrictHostKeyChecking=no", "-o", "LogLevel=ERROR",
		"-o", "UserKnownHostsFile=/dev/null", "-o", "ConnectTimeout=5", "-o", "GSSAPIAuthentication=no",
		"-b", source.String(), "root@" + a.target.String()}, args...)...)
}

// login tries to get in from an address, within five seconds.
func (a *admin) login(source netip.Addr) (time.Duration, error) {
	ctx, cancel := context.WithTimeout(context.Background(), patientLogin)
	defer cancel()
	cmd := a.command(ctx, source, "true")
	start := time.Now()
	err := a.from.Do(cmd.Start)
	if err == nil {
		err = cmd.Wait()
	}
	return time.Since(start), err
}

// session is a login that stays open.
type session struct {
	in  io.WriteCloser
	out *bufio.Reader
	cmd *exec.Cmd
}

func (a *admin) open(source netip.Addr) (*session, error) {
	cmd := a.command(context.Background(), source, "cat")
	in, err1 := cmd.StdinPipe()
	out, err2 := cmd.StdoutPipe()
	if err := errors.Join(err1, err2); err != nil {
		return nil, err
	}
	a.from.Start(cmd)
	s := &session{in: in, out: bufio.NewReader(out), cmd: cmd}
	return s, s.works(time.Minute)
}

// works sends a line and waits for it to come back, the shell's start
// included.
func (s *session) works(patience time.Duration) error {
	answer := make(chan error, 1)
	go func() {
		_, err := io.WriteString(s.in, "hello\n")
		if err == nil {
			_, err = s.out.ReadString('\n')
		}
		answer <- err
	}()
	select {
	case err := <-answer:
		return err
	case <-time.After(patience):
		return errors.New("no answer")
	}
}
