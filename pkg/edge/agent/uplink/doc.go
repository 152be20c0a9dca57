// Package uplink is the device end of the link: it enrols the device, keeps its identity on disk,
// dials the gateway, holds the control stream, and renews the certificate. What the messages and
// streams mean is the business of its Handler.
package uplink
