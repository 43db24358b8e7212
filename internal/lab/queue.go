package lab

import (
	"encoding/binary"
	"fmt"
	"time"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

// Queue holds packets on their way through a host, between the first hook and
// the last (nfnetlink_queue), where a rule sends them to queue 0.
type Queue struct{ conn *netlink.Conn }

// Messages and attributes of linux/netfilter/nfnetlink_queue.h.
const (
	queuePacket  = unix.NFNL_SUBSYS_QUEUE << 8
	queueVerdict = unix.NFNL_SUBSYS_QUEUE<<8 | 1
	queueConfig  = unix.NFNL_SUBSYS_QUEUE<<8 | 2

	queueCommand      = 1 // of a configuration: struct nfqnl_msg_config_cmd
	queueBind         = 1
	queueParams       = 2 // struct nfqnl_msg_config_params
	queueCopyMeta     = 1
	queuePacketHeader = 1 // of a packet: its number, protocol and hook
	queueVerdictAttr  = 2 // of a verdict: it and the packet's number
)

// OpenQueue binds queue 0 of a host.
func OpenQueue(h *Host) (*Queue, error) {
	q := &Queue{}
	err := h.Do(func() (err error) {
		q.conn, err = netlink.Dial(unix.NETLINK_NETFILTER, nil)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("open a queue of packets: %w", err)
	}
	if err := q.conn.SetReadBuffer(4 << 20); err != nil {
		q.conn.Close()
		return nil, err
	}
	for _, a := range []netlink.Attribute{
		{Type: queueCommand, Data: []byte{queueBind, 0, 0, unix.AF_INET}},
		{Type: queueParams, Data: []byte{0, 0, 0, 0, queueCopyMeta}},
	} {
		b, err := netlink.MarshalAttributes([]netlink.Attribute{a})
		if err != nil {
			return nil, err
		}
		_, err = q.conn.Execute(netlink.Message{
			Header: netlink.Header{Type: queueConfig, Flags: netlink.Request | netlink.Acknowledge},
			Data:   append([]byte{unix.AF_UNSPEC, 0, 0, 0}, b...)})
		if err != nil {
			q.conn.Close()
			return nil, fmt.Errorf("bind a queue of packets: %w", err)
		}
	}
	return q, nil
}

// Close lets go of the queue; the kernel drops what waits in it.
func (q *Queue) Close() error { return q.conn.Close() }

// Wait returns the numbers of the next n packets, in the order in which they
// came.
func (q *Queue) Wait(n int) (ids []uint32, err error) {
	if err := q.conn.SetReadDeadline(time.Now().Add(5 * time.Second)); err != nil {
		return nil, err
	}
	for len(ids) < n {
		msgs, err := q.conn.Receive()
		if err != nil {
			return ids, fmt.Errorf("%d of %d packets came to the queue: %w", len(ids), n, err)
		}
		for _, m := range msgs {
			if m.Header.Type != queuePacket || len(m.Data) < 4 {
				continue
			}
			ad, err := netlink.NewAttributeDecoder(m.Data[4:])
			if err != nil {
				return ids, err
			}
			for ad.Next() {
				if ad.Type() == queuePacketHeader {
					ids = append(ids, binary.BigEndian.Uint32(ad.Bytes()))
				}
			}
		}
	}
	return ids, nil
}

// Accept lets a packet go on.
func (q *Queue) Accept(id uint32) error {
	v := binary.BigEndian.AppendUint32(nil, 1) // NF_ACCEPT
	b, err := netlink.MarshalAttributes([]netlink.Attribute{
		{Type: queueVerdictAttr, Data: binary.BigEndian.AppendUint32(v, id)}})
	if err != nil {
		return err
	}
	_, err = q.conn.Send(netlink.Message{Header: netlink.Header{Type: queueVerdict, Flags: netlink.Request},
		Data: append([]byte{unix.AF_UNSPEC, 0, 0, 0}, b...)})
	return err
}
