package ctnl

// Numbers of include/uapi/linux/netlink.h, netfilter/nfnetlink.h and
// netfilter/nfnetlink_conntrack.h; the comments give the C names where they
// differ from ours by more than case.

const (
	hdrLen   = 16 // struct nlmsghdr
	genLen   = 4  // struct nfgenmsg
	attrLen  = 4  // struct nlattr
	nested   = 0x8000
	typeMask = 0x3fff // NLA_TYPE_MASK
)

// Message types of netlink itself.
const (
	nlmsgError   = 2
	nlmsgDone    = 3
	nlmsgOverrun = 4
)

// Flags of a message.
const (
	flagRequest      = 0x1
	flagMulti        = 0x2
	flagAck          = 0x4
	flagDumpIntr     = 0x10
	flagDumpFiltered = 0x20 // 5.8 and later
	flagDump         = 0x300
	flagExcl         = 0x200
	flagCreate       = 0x400
)

// Subsystems, the high byte of a message type.
const (
	subsysCT      = 1 // NFNL_SUBSYS_CTNETLINK
	subsysExpect  = 2 // NFNL_SUBSYS_CTNETLINK_EXP
	subsysTimeout = 8 // NFNL_SUBSYS_CTNETLINK_TIMEOUT
)

// Messages of subsysCT, IPCTNL_MSG_CT_*.
const (
	ctNew            = 0
	ctGet            = 1
	ctDelete         = 2
	ctGetStatsCPU    = 4
	ctGetStats       = 5
	ctGetDying       = 6
	ctGetUnconfirmed = 7
)

// Attributes of an entry, enum ctattr_type.
const (
	ctaTupleOrig      = 1
	ctaTupleReply     = 2
	ctaStatus         = 3
	ctaProtoInfo      = 4
	ctaHelp           = 5
	ctaNATSrc         = 6
	ctaTimeout        = 7
	ctaMark           = 8
	ctaCountersOrig   = 9
	ctaCountersReply  = 10
	ctaUse            = 11
	ctaID             = 12
	ctaNATDst         = 13
	ctaTupleMaster    = 14
	ctaSeqAdjOrig     = 15
	ctaSeqAdjReply    = 16
	ctaSecMark        = 17 // before 2.6.37
	ctaZone           = 18
	ctaSecCtx         = 19
	ctaTimestamp      = 20
	ctaMarkMask       = 21
	ctaLabels         = 22
	ctaLabelsMask     = 23
	ctaSynProxy       = 24
	ctaFilter         = 25
	ctaStatusMask     = 26
	ctaTimestampEvent = 27
)

const (
	ctaTupleIP    = 1
	ctaTupleProto = 2
	ctaTupleZone  = 3
)

const (
	ctaIPv4Src = 1
	ctaIPv4Dst = 2
	ctaIPv6Src = 3
	ctaIPv6Dst = 4
)

const (
	ctaProtoNum        = 1
	ctaProtoSrcPort    = 2
	ctaProtoDstPort    = 3
	ctaProtoICMPID     = 4
	ctaProtoICMPType   = 5
	ctaProtoICMPCode   = 6
	ctaProtoICMPv6ID   = 7
	ctaProtoICMPv6Type = 8
	ctaProtoICMPv6Code = 9
)

const (
	ctaProtoInfoTCP  = 1
	ctaProtoInfoDCCP = 2
	ctaProtoInfoSCTP = 3
)

const (
	ctaTCPState       = 1
	ctaTCPWScaleOrig  = 2
	ctaTCPWScaleReply = 3
	ctaTCPFlagsOrig   = 4
	ctaTCPFlagsReply  = 5
)

const (
	ctaDCCPState = 1
	ctaDCCPRole  = 2
	ctaDCCPSeq   = 3
	ctaDCCPPad   = 4
)

const (
	ctaSCTPState     = 1
	ctaSCTPVTagOrig  = 2
	ctaSCTPVTagReply = 3
)

const (
	ctaCountersPackets   = 1
	ctaCountersBytes     = 2
	ctaCounters32Packets = 3
	ctaCounters32Bytes   = 4
	ctaCountersPad       = 5
)

const (
	ctaTimestampStart = 1
	ctaTimestampStop  = 2
	ctaTimestampPad   = 3
)

const (
	ctaNATv4Min = 1
	ctaNATv4Max = 2
	ctaNATProto = 3
	ctaNATv6Min = 4
	ctaNATv6Max = 5

	ctaNATPortMin = 1
	ctaNATPortMax = 2
)

const (
	ctaSeqAdjCorrectionPos = 1
	ctaSeqAdjOffsetBefore  = 2
	ctaSeqAdjOffsetAfter   = 3
)

const (
	ctaSynProxyISN   = 1
	ctaSynProxyITS   = 2
	ctaSynProxyTSOff = 3
)

const (
	ctaHelpName = 1
	ctaHelpInfo = 2

	ctaSecCtxName = 1
)

const (
	ctaFilterOrigFlags  = 1
	ctaFilterReplyFlags = 2
)

// Fields that CTA_FILTER compares, CTA_FILTER_F_*.
const (
	filterIPSrc    = 1 << 0
	filterIPDst    = 1 << 1
	filterProtoNum = 1 << 3
	filterSrcPort  = 1 << 4
	filterDstPort  = 1 << 5
)

const (
	ctaStatsGlobalEntries    = 1
	ctaStatsGlobalMaxEntries = 2
)
