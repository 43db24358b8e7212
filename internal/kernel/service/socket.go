package service

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// Answers serves a document to whoever connects to a socket.
type Answers struct{ l *net.UnixListener }

// maxAnswer bounds a document.
const maxAnswer = 8 << 20

// Serve answers on a socket at path, which only this user may connect to, with
// what answer returns. The directory is one that others cannot enter. A socket
// that a dead process left is replaced: the caller holds the lock that says so.
func Serve(path string, answer func() []byte) (*Answers, error) {
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, err
	}
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err == nil {
		err = os.Chmod(path, 0o600)
	}
	if err != nil {
		return nil, fmt.Errorf("listen for questions: %w", err)
	}
	a := &Answers{l}
	go a.serve(answer)
	return a, nil
}

func (a *Answers) serve(answer func() []byte) {
	for {
		c, err := a.l.AcceptUnix()
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil {
			time.Sleep(100 * time.Millisecond) // out of descriptors: others need them more
			continue
		}
		_ = c.SetDeadline(time.Now().Add(2 * time.Second))
		_, _ = c.Write(answer()) // who does not wait for the answer does not need it
		_ = c.Close()
	}
}

// Close ends it and removes the socket.
func (a *Answers) Close() error { return a.l.Close() }

// Ask returns the document behind a socket. Where nobody listens the error is
// os.ErrNotExist or unix.ECONNREFUSED.
func Ask(ctx context.Context, path string) ([]byte, error) {
	var d net.Dialer
	ctx, cancel := context.WithTimeout(ctx, 3*time.Second)
	defer cancel()
	c, err := d.DialContext(ctx, "unix", path)
	if err != nil {
		return nil, err
	}
	defer c.Close()
	_ = c.SetDeadline(time.Now().Add(3 * time.Second))
	return io.ReadAll(io.LimitReader(c, maxAnswer))
}

// Nobody reports whether an error of [Ask] says that nobody listens there.
func Nobody(err error) bool {
	return errors.Is(err, os.ErrNotExist) || errors.Is(err, unix.ECONNREFUSED)
}
