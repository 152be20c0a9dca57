package apiserver

import (
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/spf13/pflag"
)

// parse returns options for a command line.
func parse(t *testing.T, args ...string) *Options {
	t.Helper()
	o := NewOptions()
	fs := pflag.NewFlagSet(t.Name(), pflag.ContinueOnError)
	for _, set := range o.Flags().FlagSets {
		fs.AddFlagSet(set)
	}
	if err := fs.Parse(args); err != nil {
		t.Fatal(err)
	}
	return o
}

func TestOptionsValidate(t *testing.T) {
	for name, test := range map[string]struct {
		args []string
		env  map[string]string
		want []string // parts of the error; none: valid
	}{
		"least":               {args: []string{"--node-address=192.0.2.1"}},
		"in a pod":            {env: map[string]string{"POD_IP": "192.0.2.1", "POD_NAMESPACE": "edge-system"}},
		"IPv6":                {args: []string{"--node-address=2001:db8::1", "--gateway-bind-address=[::1]:7443", "--gateway-advertise-address=[2001:db8::1]:7443"}},
		"etcd servers":        {args: []string{"--node-address=192.0.2.1", "--etcd-servers=https://etcd:2379", "--etcd-cafile=/ca"}},
		"several addresses":   {args: []string{"--node-address=192.0.2.1", "--gateway-advertise-address=gw.example.com:443,192.0.2.9:7443"}},
		"no node address":     {want: []string{"--node-address must be given"}},
		"bad node address":    {env: map[string]string{"POD_IP": "here"}, want: []string{`POD_IP is not an IP address: "here"`}},
		"unspecified address": {args: []string{"--node-address=0.0.0.0"}, want: []string{"--node-address: 0.0.0.0 is no address that can be reached"}},
		"TLS files of the embedded etcd": {
			args: []string{"--node-address=192.0.2.1", "--etcd-cafile=/ca"},
			want: []string{"--etcd-cafile need --etcd-servers"},
		},
		"no database": {
			args: []string{"--node-address=192.0.2.1", "--embedded-etcd-dir="},
			want: []string{"either --etcd-servers or --embedded-etcd-dir must be given"},
		},
		"quota": {
			args: []string{"--node-address=192.0.2.1", "--embedded-etcd-quota-bytes=1"},
			want: []string{"--embedded-etcd-quota-bytes must be 16777216 (16 MiB) or more, not 1"},
		},
		"half a key pair for etcd": {
			args: []string{"--node-address=192.0.2.1", "--etcd-servers=https://etcd:2379", "--etcd-certfile=/tls.crt"},
			want: []string{"--etcd-certfile and --etcd-keyfile must be given together"},
		},
		"no prefix": {
			args: []string{"--node-address=192.0.2.1", "--etcd-prefix="},
			want: []string{`--etcd-prefix: "" would put EdgeDevices among the keys of others`},
		},
		"a prefix of nothing": {
			args: []string{"--node-address=192.0.2.1", "--etcd-servers=https://etcd:2379", "--etcd-prefix=/"},
			want: []string{`--etcd-prefix: "/" would`},
		},
		"storage format": {
			args: []string{"--node-address=192.0.2.1", "--storage-media-type=text/plain"},
			want: []string{`--storage-media-type "text/plain" invalid, allowed values: application/json`},
		},
		"no patience": {
			args: []string{"--node-address=192.0.2.1", "--reconnect-grace-period=0s"},
			want: []string{"--reconnect-grace-period 0s: it must be greater than 0"},
		},
		"parked before": {
			args: []string{"--node-address=192.0.2.1", "--mqtt-park-after=-1s"},
			want: []string{"--mqtt-park-after -1s: it must not be less than 0"},
		},
		"half a key pair": {
			args: []string{"--node-address=192.0.2.1", "--tls-cert-file=/tls.crt"},
			want: []string{"--tls-cert-file and --tls-private-key-file must be given together"},
		},
		"names": {
			args: []string{"--node-address=192.0.2.1", "--namespace=A_b", "--service-name=9", "--replica-name="},
			want: []string{`--namespace: "A_b" is not valid`, `--service-name: "9" is not valid`, `--replica-name: "" is not valid`},
		},
		"addresses": {
			args: []string{"--node-address=192.0.2.1", "--gateway-bind-address=7443", "--kubelet-bind-address=localhost:10250", "--gateway-advertise-address=gw.example.com,:1,a_b:2,c:0"},
			want: []string{
				`--gateway-bind-address: "7443" is not an address like [host]:port`,
				`--kubelet-bind-address: "localhost" is not an IP address of this machine`,
				`--gateway-advertise-address: "gw.example.com" must be host:port`,
				`--gateway-advertise-address: ":1" must be host:port`,
				`--gateway-advertise-address: "a_b" is neither an IP address nor a DNS name`,
				`--gateway-advertise-address: "c:0" must be host:port`,
			},
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Setenv("POD_IP", "")
			for k, v := range test.env {
				t.Setenv(k, v)
			}
			o := parse(t, test.args...)
			if err := o.Complete(); err != nil {
				t.Fatal(err)
			}
			err := o.Validate()
			if len(test.want) == 0 {
				if err != nil {
					t.Errorf("not valid: %v", err)
				}
				return
			}
			if err == nil {
				t.Fatal("valid, want an error")
			}
			for _, want := range test.want {
				if !strings.Contains(err.Error(), want) {
					t.Errorf("%q is not in: %v", want, err)
				}
			}
		})
	}
}

// A file that is not there is found before etcd is started, and whoever reads the error learns which flag is meant, and of
// none that was not given.
func TestMissingFiles(t *testing.T) {
	for _, flag := range []string{
		"--allow-metric-labels-manifest", "--audit-webhook-config-file", "--tls-sni-cert-key=/none,",
		"--kubeconfig", "--authentication-kubeconfig", "--authorization-kubeconfig", "--client-ca-file", "--requestheader-client-ca-file",
		"--tls-cert-file", "--tls-private-key-file", "--etcd-cafile", "--etcd-certfile", "--etcd-keyfile", "--encryption-provider-config",
		"--audit-policy-file", "--admission-control-config-file", "--tracing-config-file",
	} {
		dir := filepath.Join(t.TempDir(), "etcd")
		flag, first, _ := strings.Cut(flag, "=") // of two files
		o := parse(t, flag+"="+first+"/none", "--node-address=192.0.2.1", "--embedded-etcd-dir="+dir)
		if err := o.Complete(); err != nil {
			t.Fatal(err)
		}
		if err := Run(t.Context(), o); err == nil || err.Error() != flag+": open /none: no such file or directory" {
			t.Errorf("%s: error %v", flag, err)
		}
		if _, err := os.Stat(dir); !os.IsNotExist(err) {
			t.Errorf("%s: etcd was started", flag)
		}
	}
}

// A flag that two sections have is that of either, as chance has it: so it was with klog's own --v.
func TestFlagsAreInOneSection(t *testing.T) {
	section := map[string]string{}
	for name, set := range NewOptions().Flags().FlagSets {
		set.VisitAll(func(f *pflag.Flag) {
			if other, ok := section[f.Name]; ok {
				t.Errorf("--%s is among the flags of both %q and %q", f.Name, name, other)
			}
			section[f.Name] = name
		})
	}
	if section["v"] != "logs" {
		t.Errorf("--v is among the flags of %q", section["v"])
	}
}

func TestOptionsDefaults(t *testing.T) {
	t.Setenv("POD_NAMESPACE", "")
	o := parse(t, "--node-address=192.0.2.1", "--kubeconfig=/k", "--authorization-kubeconfig=/z")
	if err := o.Complete(); err != nil {
		t.Fatal(err)
	}
	if o.Namespace != "aranya-system" || o.ServiceName != "aranya-apiserver" || o.GatewayBindAddress != ":7443" || o.KubeletBindAddress != ":10250" {
		t.Errorf("defaults: %+v", o)
	}
	if host, _ := os.Hostname(); o.ReplicaName != host {
		t.Errorf("replica name %q, want that of the host", o.ReplicaName)
	}
	if !o.embeddedEtcd() || !o.ownServingCert() {
		t.Error("want an embedded etcd and a serving certificate of our own by default")
	}
	if parse(t, "--tls-cert-file=/tls.crt", "--tls-private-key-file=/tls.key").ownServingCert() {
		t.Error("a serving certificate from files must be respected")
	}
	if got := o.Recommended.Etcd.DefaultStorageMediaType; got != "application/vnd.kubernetes.protobuf" {
		t.Errorf("--storage-media-type is %q, want protobuf", got)
	}
	if got := o.Recommended.Authentication.RemoteKubeConfigFile; got != "/k" {
		t.Errorf("--authentication-kubeconfig is %q, want that of --kubeconfig", got)
	}
	if got := o.Recommended.Authorization.RemoteKubeConfigFile; got != "/z" {
		t.Errorf("--authorization-kubeconfig is %q, want what was given", got)
	}
}

func TestKubeConfigIsNotThrottled(t *testing.T) {
	path := filepath.Join(t.TempDir(), "kubeconfig")
	text := "apiVersion: v1\nkind: Config\nclusters: [{name: c, cluster: {server: 'https://192.0.2.1'}}]\n" +
		"contexts: [{name: c, context: {cluster: c}}]\ncurrent-context: c\n"
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	o := parse(t, "--kubeconfig="+path)
	config, err := o.kubeConfig()
	if err != nil {
		t.Fatal(err)
	}
	if config.QPS >= 0 {
		t.Errorf("limited to %f requests/s", config.QPS)
	}
	if config.ContentType != "application/vnd.kubernetes.protobuf" || !strings.HasPrefix(config.UserAgent, "aranya-apiserver/") {
		t.Errorf("content type %q, user agent %q", config.ContentType, config.UserAgent)
	}
	if _, err := parse(t, "--kubeconfig=/does/not/exist").kubeConfig(); err == nil || !strings.Contains(err.Error(), "/does/not/exist") {
		t.Errorf("want an error that names the file, got %v", err)
	}
}

func TestHosts(t *testing.T) {
	got := hosts([]string{"gw.example.com:443", "[2001:db8::1]:7443"})
	if len(got) != 2 || got[0] != "gw.example.com" || got[1] != "2001:db8::1" || net.ParseIP(got[1]) == nil {
		t.Errorf("got %q", got)
	}
}
