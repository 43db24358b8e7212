#!/bin/bash
echo net.netfilter.nf_conntrack_udp_timeout=20 > /etc/sysctl.d/50-ct.conf
#! reload-misses
sysctl -p
