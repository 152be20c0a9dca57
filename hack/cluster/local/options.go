// Package local runs a whole cluster on one machine: etcd, Kubernetes' control plane, aranya and
// edge devices, all of them the real programs. It is what "make up", "make down" and the end-to-end
// tests use. Everything lies below one directory; several clusters can run side by side.
//
// The package starts programs and waits for them; what the programs do is none of its business.
package local

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"arhat.dev/aranya/test/framework/containerd"
)

// Runtimes of devices.
const (
	RuntimeProcess    = "process"
	RuntimeContainerd = "containerd"
)

// How devices reach aranya: TLS over TCP to the gateway, the same inside a WebSocket, or the same
// through an MQTT broker.
const (
	LinkGRPC      = "grpc"
	LinkWebSocket = "websocket"
	LinkMQTT      = "mqtt"
)

// Where aranya keeps its objects.
const (
	EtcdEmbedded = "embedded"
	EtcdShared   = "shared"
)

// Namespace holds the EdgeDevices.
const Namespace = "edge"

// maxDevices is how many devices fit into the address range of a cluster.
const maxDevices = 4000

// Options say what to bring up.
type Options struct {
	// Dir holds everything of the cluster. Created if missing.
	Dir string
	// Bin holds the programs: kubernetes, cluster, aranya-apiserver, arhat and kubectl-edge.
	Bin string
	// Source is the root of the source tree; its artifacts/ are applied to the cluster.
	Source string
	// Devices is how many devices to have: device-1, device-2, ...
	Devices int
	// Runtime of the devices: process or containerd.
	Runtime string
	// Link is how devices reach aranya: grpc (the default), websocket or mqtt.
	Link string
	// Etcd says where aranya keeps its objects: embedded (the default), or shared for the etcd of the
	// cluster.
	Etcd string
	// NamespaceTaint is spec.node.namespaceTaint of the EdgeDevices; empty for the API's default.
	NamespaceTaint string
	// KubeletPort is where kube-apiserver reaches the kubelet endpoint. By default it is any that is free.
	KubeletPort int
	// KubernetesOnly leaves aranya and the devices out.
	KubernetesOnly bool
	// ExtraArgs are further arguments of programs of the cloud side, by their service's name.
	ExtraArgs map[string][]string
	// Images are imported into the container runtime of each device.
	Images []containerd.Image
	// Out receives the progress, for people.
	Out io.Writer
}

// complete makes paths absolute, fills in defaults and refuses what cannot work.
func (o *Options) complete() error {
	if o.Runtime == "" {
		o.Runtime = RuntimeProcess
	}
	if o.Link == "" {
		o.Link = LinkGRPC
	}
	if o.Etcd == "" {
		o.Etcd = EtcdEmbedded
	}
	if o.Out == nil {
		o.Out = io.Discard
	}
	for _, path := range []*string{&o.Dir, &o.Bin, &o.Source} {
		if *path == "" {
			return errors.New("the directories of the cluster, its programs and the source tree must all be given")
		}
		abs, err := filepath.Abs(*path)
		if err != nil {
			return err
		}
		*path = abs
	}
	return o.validate()
}

func (o *Options) validate() error {
	switch {
	case o.Devices < 0 || o.Devices > maxDevices:
		return fmt.Errorf("DEVICES=%d: it must be from 0 to %d", o.Devices, maxDevices)
	case o.Link != LinkGRPC && o.Link != LinkWebSocket && o.Link != LinkMQTT:
		return fmt.Errorf("LINK=%s: it must be %q, %q or %q", o.Link, LinkGRPC, LinkWebSocket, LinkMQTT)
	case o.Etcd != EtcdEmbedded && o.Etcd != EtcdShared:
		return fmt.Errorf("ETCD=%s: it must be %q or %q", o.Etcd, EtcdEmbedded, EtcdShared)
	case o.Runtime != RuntimeProcess && o.Runtime != RuntimeContainerd:
		return fmt.Errorf("RUNTIME=%s: it must be %q or %q", o.Runtime, RuntimeProcess, RuntimeContainerd)
	}
	if isRoot() && (strings.HasPrefix(o.Dir, "/run/") || strings.HasPrefix(o.Dir, "/proc/")) {
		return fmt.Errorf("DIR=%s: devices have a /run and /proc of their own and would not find it there; choose another place", o.Dir)
	}
	if o.Runtime == RuntimeContainerd {
		if err := containerd.Check(); err != nil {
			return fmt.Errorf("RUNTIME=%s: %w", o.Runtime, err)
		}
	}
	if o.Link == LinkMQTT {
		if _, err := os.Stat(mosquitto); err != nil {
			return fmt.Errorf("LINK=%s needs Mosquitto, Debian's package mosquitto: %w", o.Link, err)
		}
	}
	programs := []string{"kubernetes", "cluster"}
	if !o.KubernetesOnly {
		if _, err := os.Stat(filepath.Join(o.Source, "artifacts", "kustomization.yaml")); err != nil {
			return fmt.Errorf("%s is not the root of aranya's source tree: run this there, or name it with --source: %w", o.Source, err)
		}
		programs = append(programs, "aranya-apiserver", "arhat", "kubectl-edge")
	}
	for _, name := range programs {
		if _, err := os.Stat(filepath.Join(o.Bin, name)); err != nil {
			return fmt.Errorf("the program %s has not been built (make cluster-programs builds it): %w", name, err)
		}
	}
	return nil
}

// isRoot says whether devices can have namespaces of their own.
func isRoot() bool { return os.Geteuid() == 0 }
