package advice

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"sync"
	"testing"
	"time"

	"github.com/ctwarden/ctwarden/internal/lab"
)

// held are connections that were there before the trouble. Either end may be
// the first to speak again.
type held struct {
	conns []net.Conn // the clients' ends

	mu   sync.Mutex
	ends map[uint16]net.Conn // the server's ends, by number
}

// hold opens n connections that say their number and nothing more.
func hold(t testing.TB, p *cast, port uint16, n int) (*held, error) {
	h := &held{ends: make(map[uint16]net.Conn)}
	p.server.ServeTCP(port, h.serve)
	var err error
	if h.conns, err = p.client.Connect(t.Context(), p.at(port), p.clients, n); err != nil {
		return nil, err
	}
	for i, c := range h.conns {
		if err := h.introduce(c, uint16(i)); err != nil {
			return nil, err
		}
	}
	return h, nil
}

func (h *held) introduce(c net.Conn, i uint16) error {
	var b [2]byte
	binary.BigEndian.PutUint16(b[:], i)
	if err := c.SetDeadline(time.Now().Add(5 * time.Second)); err != nil {
		return err
	}
	if _, err := c.Write(b[:]); err != nil {
		return err
	}
	_, err := io.ReadFull(c, b[:1])
	return err
}

func (h *held) serve(c net.Conn) {
	var b [2]byte
	if _, err := io.ReadFull(c, b[:]); err != nil {
		return
	}
	h.mu.Lock()
	h.ends[binary.BigEndian.Uint16(b[:])] = c
	h.mu.Unlock()
	if _, err := c.Write([]byte{1}); err != nil {
		return
	}
	lab.Echo(c)
}

// broken counts the connections on which nothing passes any more: on the even
// ones the client speaks first, on the odd ones the server.
func (h *held) broken() (n int) {
	var wg sync.WaitGroup
	var mu sync.Mutex
	for i, c := range h.conns {
		wg.Go(func() {
			var err error
			if i%2 == 0 {
				err = speak(c, c)
			} else {
				h.mu.Lock()
				end := h.ends[uint16(i)]
				h.mu.Unlock()
				err = speak(end, c)
			}
			if err != nil {
				mu.Lock()
				n++
				mu.Unlock()
			}
		})
	}
	wg.Wait()
	return n
}

// speak writes a byte at one end and waits for one at the client's: the echo,
// or what the server pushed. Retransmissions get their time.
func speak(from, client net.Conn) error {
	if from == nil {
		return errors.New("the server never saw it")
	}
	deadline := time.Now().Add(20 * time.Second)
	if err := errors.Join(from.SetWriteDeadline(deadline), client.SetReadDeadline(deadline)); err != nil {
		return err
	}
	if _, err := from.Write([]byte{2}); err != nil {
		return err
	}
	var b [1]byte
	if _, err := io.ReadFull(client, b[:]); err != nil {
		if errors.Is(err, os.ErrDeadlineExceeded) {
			return fmt.Errorf("silent: %w", err)
		}
		return err
	}
	return nil
}
