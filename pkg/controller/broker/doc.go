// Package broker keeps the server's connections to the MQTT brokers that EdgeDevices name: one client
// per distinct broker and credential, with one subscription per message namespace, shared by all
// devices that use it. It follows the EdgeDevices and the Secrets they refer to, and knows for each
// device whether its broker can be reached. Frames and topics belong into package
// pkg/edge/link/mqtt, sessions into pkg/edge/gateway.
package broker
