// Package device keeps the status of EdgeDevices, tells their story in events, and sees to it that
// nothing of a deleted EdgeDevice is left behind. What a Node or a pod looks like belongs into
// packages node and pod.
package device
