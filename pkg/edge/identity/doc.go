// Package identity holds what both ends of the device link must agree on about who is who: the name
// of a device inside its certificate, the name that every gateway certificate carries, and the text of
// an enrolment token. It issues and verifies nothing: see pkg/edge/gateway and
// pkg/edge/agent/uplink.
package identity
