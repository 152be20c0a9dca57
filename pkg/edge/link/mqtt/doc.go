// Package mqtt is the transport of the device link through an MQTT 3.1.1 broker: an ordered pipe of bytes
// over two topics per device, <messageNamespace>/<namespace>/<name>/up and .../down, at QoS 1. The device
// dials with a Dialer; the server serves all devices of a broker with one client, a Broker, and one
// wildcard subscription per message namespace, a listener of it.
//
// Frames carry a connection ID, which both ends choose together, and sequence numbers: what arrives twice
// is dropped, what is missing resets the connection, what is foreign or malformed is ignored and counted.
// Both ends grant each other credit, in bytes and in frames, so that a reader that stalls holds a bounded
// amount of memory and no one but itself.
//
// Brokers drop what is queued for a client beyond a number of messages, and the server is one client for all
// devices. So the server lets few devices in at a time and has others wait, devices that wait for a server
// spread their requests, and both ends say once, after silence, how many frames there were, so that the loss of the
// last one is noticed, too. Should that be lost as well, the next heartbeat of the link shows it.
//
// A device can be parked: its connection ends, but not that to the broker, and both ends exchange notes, in frames
// that belong to no connection, until the device opens the next one. The ID of the first connection over the
// device's connection to the broker stands for all that follow, in notes as in the will. Several servers may hear the
// device: the next connection is for the one that had the last to accept.
//
// When it is the server that ends a connection, a Keeper keeps the device's connection to the broker for the next one.
//
// The broker is not trusted with anything but delivery: TLS runs inside. Who may use which topic is for
// the broker's ACL to say; without one, devices can disturb, but not read or impersonate, each other.
package mqtt
