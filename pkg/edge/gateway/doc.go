// Package gateway is the server end of the device link: the listener for devices, their identity
// (device CA, enrolment tokens, certificates), their sessions, which outlast a connection if the link is parked,
// and streams. It knows the wire protocol and the EdgeDevice, of Nodes no more than the boot ID that a device reports, of
// HTTP no more than it takes to let a WebSocket in, and nothing of pods or of users' requests: those are pkg/controller,
// pkg/registry and pkg/kubelet, which use the interfaces Sessions, Session and Handler.
package gateway
