// Package direct is the client with which aranya's own controllers and gateway reach EdgeDevices: the
// calls that each device costs go to the storage without HTTP, JSON and patches between, the others to
// the API by way of the loopback client. What decides about requests, validation above all, belongs in
// package edgedevice; users' requests never come this way.
//
// Calls that go to the storage are those of the server itself. They are validated and checked for
// conflicts like any other. As they are no requests, neither admission nor the audit log sees them, and
// they leave metadata.managedFields as it is.
package direct
