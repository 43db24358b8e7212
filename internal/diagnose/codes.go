package diagnose

// Codes of the findings. They are part of the interface: scripts match them.
const (
	codeTableFull         = "table-full"
	codeTableWasFull      = "table-was-full"
	codeTableNearFull     = "table-near-full"
	codeEarlyDropActive   = "early-drop-active"
	codeEarlyDropDefeated = "early-drop-defeated"
	codeFloodSYN          = "flood-syn"
	codeFloodUDP          = "flood-udp"
	codeFloodAssured      = "flood-assured"
	codeOneSource         = "one-source"
	codeScanOutbound      = "scan-outbound"
	codeShortChurn        = "short-connection-churn"
	codeDNSChurn          = "dns-churn"
	codeIdleEstablished   = "idle-established"
	codeMaxExceedsMemory  = "max-exceeds-memory"
	codeTimeoutInvalid    = "timeout-invalid"
	codeTrackingInactive  = "tracking-inactive"
	codeCannotSee         = "cannot-see"
)

// symptoms are what every cause of a filling table explains.
var symptoms = []string{codeTableFull, codeTableNearFull, codeEarlyDropActive}
