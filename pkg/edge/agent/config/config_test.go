package config

import (
	"net/netip"
	"os"
	"reflect"
	"strings"
	"testing"

	v1 "k8s.io/api/core/v1"
	"k8s.io/utils/ptr"
)

const header = "apiVersion: arhat.dev/v1alpha1\nkind: ArhatConfiguration\n"

func TestParseErrors(t *testing.T) {
	for name, tt := range map[string]struct{ text, want string }{
		"unknown field":        {header + "sever: a:1", `arhat.yaml:3: unknown field "sever"`},
		"unknown nested field": {header + "policy:\n  hostLog:\n    path: []", `arhat.yaml:5: unknown field "path"`},
		"two unknown fields":   {header + "a: 1\nb: 2", "arhat.yaml:3: unknown field \"a\"\narhat.yaml:4: unknown field \"b\""},
		"twice":                {header + "server: a:1\nserver: b:1", "arhat.yaml:4: mapping key \"server\" already defined at line 3"},
		"type":                 {header + "policy:\n  hostExec: perhaps", "arhat.yaml:4: hostExec: cannot unmarshal !!str `perhaps`, must be true or false"},
		"list":                 {header + "shell: /bin/sh", "arhat.yaml:3: shell: cannot unmarshal !!str `/bin/sh`, must be a list of strings"},
		"mapping":              {header + "policy: [a]", "arhat.yaml:3: policy: cannot unmarshal !!seq, must be a mapping"},
		"number":               {header + "podPidsLimit: many", "arhat.yaml:3: podPidsLimit: cannot unmarshal !!str `many`, must be a whole number"},
		"fraction":             {header + "mqtt:\n  keepalive: 1.5\npodPidsLimit: 2.5", "arhat.yaml:4: keepalive: cannot unmarshal !!float `1.5`, must be a whole number\narhat.yaml:5: podPidsLimit: cannot"},
		"mapping of strings":   {header + "evictionHard: 5%", "arhat.yaml:3: evictionHard: cannot unmarshal !!str `5%`, must be a mapping"},
		"key with a dot":       {header + "evictionHard:\n  memory.available: [5%]", "arhat.yaml:4: memory.available: cannot unmarshal !!seq, must be a string"},
		"key with a hyphen":    {header + "reserved:\n  ephemeral-storage: {}", "arhat.yaml:4: ephemeral-storage: cannot unmarshal !!map, must be a string"},
		"no mapping":           {"[]", "arhat.yaml:1: cannot unmarshal !!seq, must be a mapping"},
		"syntax":               {header + "server: [", "arhat.yaml:"},
		"version":              {"apiVersion: arhat.dev/v2\nkind: ArhatConfiguration", `must begin with "apiVersion: arhat.dev/v1alpha1"`},
		"kind":                 {"apiVersion: arhat.dev/v1alpha1\nkind: Pod", `is "Pod" of version`},
		"empty":                {"", "must begin with"},
		"two documents":        {header + "---\n" + header, "more than one YAML document"},
	} {
		t.Run(name, func(t *testing.T) {
			if _, err := Parse([]byte(tt.text), "arhat.yaml"); err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("got  %v\nwant %s", err, tt.want)
			}
		})
	}
}

// What is a fraction to YAML is a quantity where one is expected.
func TestParseFraction(t *testing.T) {
	c, err := Parse([]byte(header+"reserved: {cpu: 0.5, memory: 1e9}\npodPidsLimit: 100"), "arhat.yaml")
	if err != nil || c.Reserved.CPU != "0.5" || c.Reserved.Memory != "1e9" || *c.PodPidsLimit != 100 {
		t.Errorf("got %+v, %v", c, err)
	}
}

func TestValidate(t *testing.T) {
	for name, tt := range map[string]struct{ text, want string }{
		"server":              {"server: ''", "server: Required value"},
		"server without port": {"server: aranya.example.org", "server: Invalid value"},
		"server port":         {"server: 'a:0'", "is not a number from 1 to 65535"},
		"state directory":     {"stateDir: relative", "stateDir: Invalid value"},
		"log directory":       {"logDir: /var/log/../pods", "logDir: Invalid value"},
		"runtime":             {"runtime: docker", "runtime: Invalid value"},
		"runtime socket":      {"runtime: unix://relative", "runtime: Invalid value"},
		"node address":        {"nodeIP: 0.0.0.0", "nodeIP: Invalid value"},
		"loopback address":    {"nodeIP: 127.0.0.1", "not of loopback, link-local or multicast"},
		"mapped loopback":     {"nodeIP: '::ffff:127.0.0.1'", "nodeIP: Invalid value"},
		"link-local address":  {"nodeIP: fe80::1", "nodeIP: Invalid value"},
		"multicast address":   {"nodeIP: 224.0.0.1", "nodeIP: Invalid value"},
		"resolver":            {"resolvConf: resolv.conf", "resolvConf: Invalid value"},
		"shell":               {"shell: [bash]", "shell[0]: Invalid value"},
		"reserved":            {"reserved: {memory: much}", "reserved.memory: Invalid value"},
		"reserved negative":   {"reserved: {cpu: '-1'}", "reserved.cpu: Invalid value"},
		"log format":          {"logging: {format: xml}", "logging.format: Unsupported value"},
		"log level":           {"logging: {level: loud}", "logging.level: Unsupported value"},
		"log file":            {"logging: {file: {path: arhat.log}}", "logging.file.path: Invalid value"},
		"log file size":       {"logging: {file: {maxSize: 1Ki}}", "logging.file.maxSize: Invalid value"},
		"log files":           {"logging: {file: {maxFiles: 1000}}", "logging.file.maxFiles: Invalid value"},
		"log path":            {"policy: {hostLog: {paths: [var/log]}}", "policy.hostLog.paths[0]: Invalid value"},
		"log path pattern":    {"policy: {hostLog: {paths: ['/var/**/x']}}", "policy.hostLog.paths[0]: Invalid value"},
		"log path brackets":   {"policy: {hostLog: {paths: ['/var/[']}}", "policy.hostLog.paths[0]: Invalid value"},
		"unit":                {"policy: {hostLog: {units: ['']}}", "policy.hostLog.units[0]: Invalid value"},
		"destination":         {"policy: {hostPortForward: {allowedDestinations: ['http://x']}}", "policy.hostPortForward.allowedDestinations[0]: Invalid value"},
		"destination network": {"policy: {hostPortForward: {allowedDestinations: ['10.1.2.3/16']}}", "did you mean 10.1.0.0/16?"},
		"destination port":    {"policy: {hostPortForward: {allowedDestinations: ['10.1.0.0/16:99999']}}", "is not a number from 1 to 65535"},
		"host path":           {"policy: {hostPaths: [data/]}", "policy.hostPaths[0]: Invalid value"},
		"image threshold":     {"imageGCHighThresholdPercent: 101", "imageGCHighThresholdPercent: Invalid value"},
		"image thresholds":    {"imageGCLowThresholdPercent: 85", "must be at least 0 and less than imageGCHighThresholdPercent"},
		"image age":           {"imageMinimumGCAge: long", "imageMinimumGCAge: Invalid value"},
		"image ages":          {"imageMaximumGCAge: 1m", `imageMaximumGCAge: Invalid value: "1m": must be greater than imageMinimumGCAge`},
		"equal image ages":    {"imageMinimumGCAge: 1h\nimageMaximumGCAge: 60m", "must be greater than imageMinimumGCAge, or 0s for never"},
		"container log size":  {"containerLogMaxSize: big", "containerLogMaxSize: Invalid value"},
		"container log files": {"containerLogMaxFiles: 1", "containerLogMaxFiles: Invalid value"},
		"signal":              {"evictionHard: {disk.available: 1Gi}", "evictionHard[disk.available]: Unsupported value"},
		"threshold":           {"evictionHard: {memory.available: much}", "evictionHard[memory.available]: Invalid value"},
		"percentage":          {"evictionHard: {memory.available: 101%}", "must be a percentage from 0% to 100%"},
		"no number":           {"evictionHard: {memory.available: NaN%}", "must be a percentage from 0% to 100%"},
		"soft without grace":  {"evictionSoft: {memory.available: 1Gi}", "evictionSoftGracePeriod[memory.available]: Required value"},
		"grace period":        {"evictionSoft: {memory.available: 1Gi}\nevictionSoftGracePeriod: {memory.available: -1s}", "evictionSoftGracePeriod[memory.available]: Invalid value"},
		"processes of a pod":  {"podPidsLimit: 0", "podPidsLimit: Invalid value"},
		"longest grace":       {"evictionMaxPodGracePeriod: -1", "evictionMaxPodGracePeriod: Invalid value"},
	} {
		t.Run(name, func(t *testing.T) {
			text := tt.text
			if !strings.Contains(text, "server:") {
				text += "\nserver: a:1"
			}
			c, err := Parse([]byte(header+text), "arhat.yaml")
			if err != nil {
				t.Fatal(err)
			}
			if err := c.Finish(); err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("got  %v\nwant %s", err, tt.want)
			}
		})
	}
}

// TestSample checks that the sample file is valid and says what the defaults are.
func TestSample(t *testing.T) {
	c, err := Load("../../../../artifacts/arhat/arhat.yaml")
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Finish(); err != nil {
		t.Fatal(err)
	}
	defaults := New()
	defaults.Server = c.Server
	if err := defaults.Finish(); err != nil {
		t.Fatal(err)
	}
	c.Policy.HostPaths, c.Policy.HostPortForward.AllowedDestinations = nil, nil // empty in the sample
	if !reflect.DeepEqual(c, defaults) {
		t.Errorf("the sample says\n%+v\nthe defaults are\n%+v", c, defaults)
	}
	if got := c.Reserved.List()[v1.ResourceMemory]; got.Value() != 64<<20 {
		t.Errorf("reserved memory is %s", got.String())
	}
	if c.Logging.File.MaxBytes() != 5<<20 || c.Logging.File.Path != "/var/lib/arhat/arhat.log" || c.Logging.Verbosity() != 2 {
		t.Errorf("logging is %+v", c.Logging)
	}
}

func TestLoad(t *testing.T) {
	if _, err := Load(t.TempDir() + "/none.yaml"); err == nil || !strings.Contains(err.Error(), "none.yaml") {
		t.Errorf("got %v", err)
	}
	large := t.TempDir() + "/large.yaml"
	if err := os.WriteFile(large, make([]byte, maxFileSize+1), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Load(large); err == nil || !strings.Contains(err.Error(), "larger than") {
		t.Errorf("got %v", err)
	}
}

func TestAllowsHostPath(t *testing.T) {
	for _, tt := range []struct {
		allowed []string
		path    string
		want    bool
	}{
		{nil, "/data", false},
		{[]string{"/"}, "/data", true},
		{[]string{"/data"}, "/data", true},
		{[]string{"/data"}, "/data/a/b", true},
		{[]string{"/data"}, "/database", false},
		{[]string{"/data"}, "/", false},
	} {
		p := Policy{HostPaths: tt.allowed}
		if got := p.AllowsHostPath(tt.path); got != tt.want {
			t.Errorf("%v allows %s: %t", tt.allowed, tt.path, got)
		}
	}
}

func TestAllowsLogs(t *testing.T) {
	for _, tt := range []struct {
		pattern, path string
		want          bool
	}{
		{"/var/log/**", "/var/log/syslog", true},
		{"/var/log/**", "/var/log/pods/a/b.log", true},
		{"/var/log/**", "/var/log", false},
		{"/var/log/**", "/var/logs/x", false},
		{"/var/log/*.log", "/var/log/a.log", true},
		{"/var/log/*.log", "/var/log/a/b.log", false},
		{"/srv/*/log/**", "/srv/web/log/today", true},
		{"/srv/*/log/**", "/srv/web/data/today", false},
		{"/**", "/anything", true},
		{"/var/log/**", "relative", false},
	} {
		p := Policy{HostLog: HostLog{Allow: ptr.To(true), Paths: []string{tt.pattern}, Units: []string{"ssh*"}}}
		if got := p.AllowsLogPath(tt.path); got != tt.want {
			t.Errorf("%s allows %s: %t", tt.pattern, tt.path, got)
		}
		if !p.AllowsUnit("sshd.service") || p.AllowsUnit("cron.service") {
			t.Error("units are wrong")
		}
		p.HostLog.Allow = ptr.To(false)
		if p.AllowsLogPath(tt.path) || p.AllowsUnit("sshd.service") {
			t.Error("what is not allowed at all is allowed by a pattern")
		}
	}
}

func TestAllowsDestination(t *testing.T) {
	for _, tt := range []struct {
		entry, host, addr string
		port              uint16
		want              bool
	}{
		{"10.1.0.0/16", "10.1.2.3", "10.1.2.3", 80, true},
		{"10.1.0.0/16", "x", "::ffff:10.1.2.3", 80, true},
		{"10.1.0.0/16", "10.2.2.3", "10.2.2.3", 80, false},
		{"10.1.0.0/16:80", "10.1.2.3", "10.1.2.3", 80, true},
		{"10.1.0.0/16:80", "10.1.2.3", "10.1.2.3", 81, false},
		{"10.1.2.3:*", "10.1.2.3", "10.1.2.3", 81, true},
		{"10.1.2.3", "10.1.2.4", "10.1.2.4", 81, false},
		{"fd00::/8", "x", "fd00::1", 1, true},
		{"[fd00::/8]:443", "x", "fd00::1", 443, true},
		{"[fd00::/8]:443", "x", "fd00::1", 444, false},
		{"[fd00::1]", "x", "fd00::1", 444, true},
		{"plc.local:502", "PLC.local.", "192.0.2.1", 502, true},
		{"plc.local:502", "other.local", "192.0.2.1", 502, false},
		{"plc.local", "plc.local", "192.0.2.1", 1, true},
	} {
		if _, err := parseDestination(tt.entry); err != nil {
			t.Errorf("%s: %v", tt.entry, err)
		}
		p := Policy{HostPortForward: HostPortForward{AllowedDestinations: []string{tt.entry}}}
		if got := p.AllowsDestination(tt.host, netip.MustParseAddr(tt.addr), tt.port); got != tt.want {
			t.Errorf("%s allows %s (%s) port %d: %t", tt.entry, tt.host, tt.addr, tt.port, got)
		}
	}
}

func FuzzParse(f *testing.F) {
	f.Add([]byte(header + "server: a:1"))
	f.Add([]byte(header + "policy: {hostPortForward: {allowedDestinations: ['[fd00::/8]:1', 'a:b']}}"))
	f.Fuzz(func(t *testing.T, data []byte) {
		c, err := Parse(data, "arhat.yaml")
		if err != nil {
			return
		}
		if c.Finish() == nil {
			// Whatever is valid must be usable without a panic.
			c.Reserved.List()
			c.Logging.File.MaxBytes()
			c.Policy.AllowsDestination("a", netip.IPv6Unspecified(), 1)
			c.Policy.AllowsLogPath("/a/b")
		}
	})
}

func TestParseThreshold(t *testing.T) {
	for text, want := range map[string]uint64{"100Mi": 100 << 20, "10%": 1 << 20, "0%": 0, "0": 0, "12.5%": 10 << 17} {
		got, err := ParseThreshold(text)
		if err != nil || got.Of(10<<20) != want {
			t.Errorf("%s: got %d, %v, want %d", text, got.Of(10<<20), err, want)
		}
	}
}
