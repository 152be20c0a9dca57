package api

// How large one message may be, in bytes. Both ends keep to it.
const (
	// MaxServerMessage is the largest message that a device accepts on its control stream: a pod of
	// 1.5 MiB (etcd's limit) and several volumes of 1 MiB (a Secret's or ConfigMap's limit).
	MaxServerMessage = 8 << 20
	// MaxDeviceMessage is the largest message that the server accepts.
	MaxDeviceMessage = 2 << 20
)
