#!/bin/sh
set -e
modprobe nf_conntrack
# conntrack -F would cut everybody
sysctl -w net.netfilter.nf_conntrack_max=262144
cat > /etc/sysctl.d/90-conntrack.conf <<END
net.netfilter.nf_conntrack_tcp_timeout_time_wait = 30
END
echo "net.ipv4.ip_forward=1" >> /etc/sysctl.conf
sysctl --system
MAX=$(sysctl -n net.netfilter.nf_conntrack_max)
sysctl -w net.netfilter.nf_conntrack_max=$((MAX * 2))
conntrack -L -p tcp | wc -l
conntrack -D -s 192.0.2.7
iptables -t raw -A PREROUTING -p udp --dport 53 -j CT --notrack
