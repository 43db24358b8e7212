#!/bin/sh
#! overwrites-file
cat > /etc/sysctl.conf <<END
#! read-only
net.netfilter.nf_conntrack_count = 262144
#! breaks-keepalives
net.netfilter.nf_conntrack_tcp_timeout_established = 3600
END
#! dead-name short-timeout
sysctl -w net.ipv4.netfilter.ip_conntrack_tcp_timeout_time_wait=1
#! short-timeout
sysctl -w net.netfilter.nf_conntrack_tcp_timeout_time_wait=1
#! dead-name max-without-buckets
echo 4194304 > /proc/sys/net/ipv4/ip_conntrack_max
#! read-only
echo "net.netfilter.nf_conntrack_count = 524288" >> /etc/sysctl.conf
#! flushes-table
conntrack -F
#! dead-module
modprobe ip_conntrack
#! notrack-with-nat
iptables -t raw -A PREROUTING -p udp --dport 53 -j NOTRACK
iptables -t nat -A POSTROUTING -o eth0 -j MASQUERADE
