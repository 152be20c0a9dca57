package validation

import (
	"strings"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"

	"arhat.dev/aranya/pkg/apis/aranya"
)

func TestValidateExecOptions(t *testing.T) {
	for _, tc := range []struct {
		name    string
		options aranya.EdgeDeviceExecOptions
		want    []string
	}{
		{name: "host", options: aranya.EdgeDeviceExecOptions{Command: []string{"ls", ""}, Stdout: true, Stderr: true}},
		{name: "terminal", options: aranya.EdgeDeviceExecOptions{Command: []string{"sh"}, Stdin: true, Stdout: true, TTY: true}},
		{name: "container", options: aranya.EdgeDeviceExecOptions{Command: []string{"sh"}, Stdin: true, Pod: "p.q", Container: "c"}},
		{name: "pod of another namespace", options: aranya.EdgeDeviceExecOptions{Command: []string{"sh"}, Stdin: true, Pod: "ns/p"}},
		{name: "no command", options: aranya.EdgeDeviceExecOptions{Stdout: true}, want: []string{"Required|command|"}},
		{name: "empty program", options: aranya.EdgeDeviceExecOptions{Command: []string{"", "x"}, Stdout: true}, want: []string{"Required|command[0]|"}},
		{name: "NUL", options: aranya.EdgeDeviceExecOptions{Command: []string{"a", "b\x00"}, Stdout: true}, want: []string{"Invalid|command[1]|NUL"}},
		{name: "no stream", options: aranya.EdgeDeviceExecOptions{Command: []string{"ls"}}, want: []string{"Required|stdout|at least one"}},
		{
			name:    "terminal with stderr",
			options: aranya.EdgeDeviceExecOptions{Command: []string{"sh"}, Stdout: true, Stderr: true, TTY: true},
			want:    []string{"Forbidden|stderr|leave out stderr or tty"},
		},
		{
			name:    "container without pod",
			options: aranya.EdgeDeviceExecOptions{Command: []string{"sh"}, Stdout: true, Container: "c"},
			want:    []string{"Forbidden|container|name the pod"},
		},
		{
			name:    "container name",
			options: aranya.EdgeDeviceExecOptions{Command: []string{"sh"}, Stdout: true, Pod: "p", Container: "C"},
			want:    []string{"Invalid|container|"},
		},
		{
			name:    "pod name",
			options: aranya.EdgeDeviceExecOptions{Command: []string{"sh"}, Stdout: true, Pod: "a/b/c"},
			want:    []string{"Invalid|pod|namespace/name"},
		},
		{
			name:    "namespace of a pod",
			options: aranya.EdgeDeviceExecOptions{Command: []string{"sh"}, Stdout: true, Pod: "/p"},
			want:    []string{"Invalid|pod|namespace/name"},
		},
	} {
		t.Run(tc.name, func(t *testing.T) { expect(t, ValidateExecOptions(&tc.options), tc.want) })
	}
}

func TestValidateAttachOptions(t *testing.T) {
	for _, tc := range []struct {
		name    string
		options aranya.EdgeDeviceAttachOptions
		want    []string
	}{
		{name: "host", options: aranya.EdgeDeviceAttachOptions{Stdin: true, Stdout: true, TTY: true}},
		{name: "container", options: aranya.EdgeDeviceAttachOptions{Stdout: true, Pod: "p"}},
		{name: "no stream", options: aranya.EdgeDeviceAttachOptions{Pod: "p"}, want: []string{"Required|stdout|"}},
		{name: "terminal with stderr", options: aranya.EdgeDeviceAttachOptions{Stderr: true, TTY: true}, want: []string{"Forbidden|stderr|"}},
		{name: "container without pod", options: aranya.EdgeDeviceAttachOptions{Stdout: true, Container: "c"}, want: []string{"Forbidden|container|"}},
	} {
		t.Run(tc.name, func(t *testing.T) { expect(t, ValidateAttachOptions(&tc.options), tc.want) })
	}
}

func TestValidateLogOptions(t *testing.T) {
	now := metav1.Now()
	for _, tc := range []struct {
		name    string
		options aranya.EdgeDeviceLogOptions
		want    []string
	}{
		{name: "agent", options: aranya.EdgeDeviceLogOptions{Follow: true, TailLines: ptr.To[int64](0), SinceSeconds: ptr.To[int64](1)}},
		{name: "container", options: aranya.EdgeDeviceLogOptions{Pod: "p", Container: "c", Previous: true, Timestamps: true, SinceTime: &now}},
		{name: "file", options: aranya.EdgeDeviceLogOptions{Path: "/var/log/syslog", LimitBytes: ptr.To[int64](1)}},
		{name: "unit", options: aranya.EdgeDeviceLogOptions{Unit: `dev-disk-by\x2dlabel.mount`, Timestamps: true}},
		{name: "template unit", options: aranya.EdgeDeviceLogOptions{Unit: "getty@tty1.service"}},
		{name: "pod and file", options: aranya.EdgeDeviceLogOptions{Pod: "p", Path: "/a"}, want: []string{"Forbidden|path|at most one"}},
		{name: "pod and unit", options: aranya.EdgeDeviceLogOptions{Pod: "p", Unit: "a"}, want: []string{"Forbidden|unit|at most one"}},
		{name: "file and unit", options: aranya.EdgeDeviceLogOptions{Path: "/a", Unit: "a"}, want: []string{"Forbidden|unit|at most one"}},
		{name: "relative path", options: aranya.EdgeDeviceLogOptions{Path: "log"}, want: []string{"Invalid|path|absolute"}},
		{name: "path with ..", options: aranya.EdgeDeviceLogOptions{Path: "/var/log/../shadow"}, want: []string{"Invalid|path|absolute"}},
		{name: "path with NUL", options: aranya.EdgeDeviceLogOptions{Path: "/a\x00"}, want: []string{"Invalid|path|NUL"}},
		{name: "long path", options: aranya.EdgeDeviceLogOptions{Path: "/" + strings.Repeat("a", 4096)}, want: []string{"TooLong|path|4096"}},
		{name: "unit that is an option", options: aranya.EdgeDeviceLogOptions{Unit: "--file=x"}, want: []string{"Invalid|unit|ssh.service"}},
		{name: "unit with a slash", options: aranya.EdgeDeviceLogOptions{Unit: "../x"}, want: []string{"Invalid|unit|ssh.service"}},
		{name: "long unit", options: aranya.EdgeDeviceLogOptions{Unit: strings.Repeat("a", 256)}, want: []string{"Invalid|unit|ssh.service"}},
		{
			name:    "times of a file",
			options: aranya.EdgeDeviceLogOptions{Path: "/a", SinceSeconds: ptr.To[int64](1), Timestamps: true},
			want:    []string{"Forbidden|sinceSeconds|no times", "Forbidden|timestamps|no times"},
		},
		{name: "time of a file", options: aranya.EdgeDeviceLogOptions{Path: "/a", SinceTime: &now}, want: []string{"Forbidden|sinceTime|no times"}},
		{name: "previous of the host", options: aranya.EdgeDeviceLogOptions{Previous: true}, want: []string{"Forbidden|previous|container"}},
		{
			name:    "two times",
			options: aranya.EdgeDeviceLogOptions{SinceSeconds: ptr.To[int64](1), SinceTime: &now},
			want:    []string{"Forbidden|sinceTime|not together"},
		},
		{name: "sinceSeconds", options: aranya.EdgeDeviceLogOptions{SinceSeconds: ptr.To[int64](0)}, want: []string{"Invalid|sinceSeconds|greater than 0"}},
		{name: "tailLines", options: aranya.EdgeDeviceLogOptions{TailLines: ptr.To[int64](-1)}, want: []string{"Invalid|tailLines|negative"}},
		{name: "limitBytes", options: aranya.EdgeDeviceLogOptions{LimitBytes: ptr.To[int64](0)}, want: []string{"Invalid|limitBytes|greater than 0"}},
	} {
		t.Run(tc.name, func(t *testing.T) { expect(t, ValidateLogOptions(&tc.options), tc.want) })
	}
}

func TestValidatePortForwardOptions(t *testing.T) {
	for _, tc := range []struct {
		name    string
		options aranya.EdgeDevicePortForwardOptions
		want    []string
	}{
		{name: "loopback", options: aranya.EdgeDevicePortForwardOptions{}},
		{name: "pod", options: aranya.EdgeDevicePortForwardOptions{Pod: "ns/p", Ports: []int32{1, 65535}}},
		{name: "host by name", options: aranya.EdgeDevicePortForwardOptions{Host: "Printer.lan", Ports: []int32{80}}},
		{name: "host by address", options: aranya.EdgeDevicePortForwardOptions{Host: "2001:db8::1"}},
		{name: "port 0", options: aranya.EdgeDevicePortForwardOptions{Ports: []int32{80, 0}}, want: []string{"Invalid|ports[1]|between 1 and 65535"}},
		{name: "port 65536", options: aranya.EdgeDevicePortForwardOptions{Ports: []int32{65536}}, want: []string{"Invalid|ports[0]|between 1 and 65535"}},
		{
			name: "65 ports",
			options: aranya.EdgeDevicePortForwardOptions{Ports: func() []int32 {
				ports := make([]int32, maxPorts+1)
				for i := range ports {
					ports[i] = 80
				}
				return ports
			}()},
			want: []string{"TooMany|ports|64"},
		},
		{name: "pod and host", options: aranya.EdgeDevicePortForwardOptions{Pod: "p", Host: "h"}, want: []string{"Forbidden|host|not together with pod"}},
		{name: "host with a port", options: aranya.EdgeDevicePortForwardOptions{Host: "h:80"}, want: []string{"Invalid|host|without a port"}},
		{name: "pod name", options: aranya.EdgeDevicePortForwardOptions{Pod: "P"}, want: []string{"Invalid|pod|"}},
	} {
		t.Run(tc.name, func(t *testing.T) { expect(t, ValidatePortForwardOptions(&tc.options), tc.want) })
	}
}
