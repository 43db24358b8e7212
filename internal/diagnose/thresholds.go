package diagnose

import "time"

// Thresholds, each with its reason. Shares are of the entries read unless the
// comment says otherwise.
const (
	// nearFill is the share of max at which an operator should act: what the
	// common dashboards warn at lies between 75 and 90 %.
	nearFill = 0.80
	// gcFill is where gc starts to evict for lack of room: max/100*95 in
	// gc_worker.
	gcFill = 0.95
	// fullFill counts as full: under churn at the limit a reader sees a few
	// entries less than max.
	fullFill = 0.995
	// notableHeld is the share of max held by one pattern that is worth a word
	// while there is still room; pf turns its SYN cookies on at 25 % half-open.
	notableHeld = 0.25
	// patternShare is the share from which a pattern is what fills the table.
	patternShare = 0.40
	// majority decides "most of".
	majority = 0.50
	// oneSourceShare is where one address stands out even among a few.
	oneSourceShare = 0.30
	// lowOdds is the probability of admission under which users notice.
	lowOdds = 0.90
	// soonFull is how near the end must be for a half-empty table to matter.
	soonFull = 5 * time.Minute
	// soonFill is the fill under which a burst of two seconds is not
	// extrapolated.
	soonFill = 0.50
	// recentEpisode is how old a logged episode may be to count as a warning.
	recentEpisode = 24 * time.Hour
	// scanPeers is how many different peers make a scan rather than a client.
	scanPeers = 64
	// quietRearmed is the share of entries re-armed within the observation
	// under which a table counts as unused.
	quietRearmed = 0.05
	// botConnections is how many lasting, silent connections of one address a
	// person or an application rarely holds.
	botConnections = 30
	// fewSources is "a handful": with fewer, the heaviest is no outlier, and
	// nobody is to be cut off.
	fewSources = 5
	// memoryShare of RAM is what the table may take without a word, and
	// memoryAdvice of it what no advice of ours goes beyond.
	memoryShare  = 0.25
	memoryAdvice = 0.10
	// costlyChain is the mean chain at the limit from which look-ups cost more
	// than they should: the classic four entries a bucket make eight links.
	costlyChain = 16
	// chainRate is how many inserts a second refused for long chains hurt now.
	chainRate = 10
	// raceRate is how many packets a second lost in races are worth a word.
	raceRate = 1
	// expiringShare of entries with a second or less left is unusual.
	expiringShare = 0.30
	// nearLimit is the share of a neighbour's own limit that matters.
	nearLimit = 0.80
	// natPorts is what a masquerading address offers towards one destination:
	// 1024 to 65535 (nf_nat_l4proto_unique_tuple).
	natPorts = 64512
	// pinnedLeast and pinnedShare are how many entries must be counted and not
	// shown before something holds them.
	pinnedLeast = 500
	pinnedShare = 0.05
	// minEntries is the number of entries under which shares say nothing.
	minEntries = 100
)

// objectBytes and extensionBytes price an entry: the slab object of struct
// nf_conn where the slab could not be read, and the least extension block
// (NF_CT_EXT_PREALLOC), which most entries get. bucketBytes is a hash bucket.
const (
	objectBytes    = 256
	minObjectBytes = 128 // what lies outside of these is no struct nf_conn
	maxObjectBytes = 1024
	extensionBytes = 128
	bucketBytes    = 8
)
