package edgedevice

import (
	"net/url"
	"strings"
	"testing"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"

	"arhat.dev/aranya/pkg/edge/gateway/target/fakedevice"
)

func TestParseProxyID(t *testing.T) {
	tests := map[string]struct {
		scheme, name string
		port         uint16 // 0: refused
	}{
		"device-1":             {"http", "device-1", 80},
		"device-1:8080":        {"http", "device-1", 8080},
		"http:device-1:8080":   {"http", "device-1", 8080},
		"https:device-1:":      {"https", "device-1", 443},
		"https:device-1:8443":  {"https", "device-1", 8443},
		"":                     {},
		":80":                  {},
		"device-1:0":           {},
		"device-1:65536":       {},
		"device-1:-1":          {},
		"device-1:http":        {},
		"ftp:device-1:21":      {},
		"http:device-1:80:81":  {},
		"http:device-1:80\x00": {},
	}
	for id, want := range tests {
		t.Run(id, func(t *testing.T) {
			scheme, name, port, err := parseProxyID(id)
			if want.port == 0 {
				if !apierrors.IsBadRequest(err) {
					t.Errorf("got %q, %q, %d, %v", scheme, name, port, err)
				}
				return
			}
			if err != nil || scheme != want.scheme || name != want.name || port != want.port {
				t.Errorf("got %q, %q, %d, %v", scheme, name, port, err)
			}
		})
	}
}

// A device whose link is lost after its request was checked is answered for as one that had none.
func TestDialDeviceThatWentOffline(t *testing.T) {
	r := NewProxyREST(&Connector{
		Sessions: fakedevice.Sessions{},
		LastSeen: func(namespace, name string) (seen time.Time) {
			if namespace == "edge" && name == "camera-1" {
				seen = time.Unix(1_000_000, 0)
			}
			return seen
		},
	})
	_, err := r.dialDevice(t.Context(), proxyHost{uid: "0a1b-2c", namespace: "edge", name: "camera-1"}.address(80))
	if !apierrors.IsServiceUnavailable(err) || !strings.Contains(err.Error(), "EdgeDevice edge/camera-1 is offline, it was last seen at 1970-01-12T13:46:40Z") {
		t.Errorf("got %v", err)
	}
}

// FuzzParseProxyID checks that what was parsed leads to that device and port, and to no other.
func FuzzParseProxyID(f *testing.F) {
	for _, id := range []string{"device-1", "https:device-1:", "http:a.b.c:8080", "::", "a:b:c:d", "http:x@y:80"} {
		f.Add(id)
	}
	f.Fuzz(func(t *testing.T, id string) {
		scheme, name, port, err := parseProxyID(id)
		if err != nil {
			return
		}
		if scheme != "http" && scheme != "https" || name == "" || strings.Contains(name, ":") || port == 0 {
			t.Fatalf("%q is %q, %q, %d", id, scheme, name, port)
		}
		host := proxyHost{uid: "0a1b-2c", namespace: "edge", name: name}
		location := url.URL{Scheme: scheme, Host: host.address(port)}
		got, gotPort, err := parseProxyAddress(location.Host)
		if err != nil {
			// Not the name of an EdgeDevice: such a one is not found.
			if !strings.ContainsAny(name, "[]") {
				t.Fatalf("%q: %v", location.Host, err)
			}
			return
		}
		if got != host || gotPort != port {
			t.Fatalf("%q leads to %v, %d", id, got, gotPort)
		}
	})
}
