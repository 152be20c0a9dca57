package cli

import (
	"encoding/json"
	"net/http"
	"strings"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/cli-runtime/pkg/genericiooptions"

	"arhat.dev/aranya/pkg/apis/aranya/v1alpha1"
)

func TestTokenPrintsHowToJoin(t *testing.T) {
	withNamespace := func(messageNamespace string) *v1alpha1.EdgeDevice {
		return &v1alpha1.EdgeDevice{Spec: v1alpha1.EdgeDeviceSpec{Connectivity: v1alpha1.Connectivity{
			Method: v1alpha1.ConnectivityMQTT, MQTTConfig: &v1alpha1.MQTTConfig{MessageNamespace: messageNamespace}}}}
	}
	for name, test := range map[string]struct {
		server        string
		device        *v1alpha1.EdgeDevice // nil if the user may not read it
		want, warning string
	}{
		"gateway":                 {server: "gw.example.com:443", want: "arhat join --server gw.example.com:443 --token secret\n"},
		"unknown address":         {want: "arhat join --server HOST:PORT --token secret\n"},
		"broker":                  {server: "mqtts://b:8883", device: withNamespace("/site/a"), want: "arhat join --server mqtts://b:8883 --token secret --mqtt-message-namespace '/site/a'\n"},
		"broker over WebSocket":   {server: "mqtt+ws://b:80", device: withNamespace("a"), want: "arhat join --server mqtt+ws://b:80 --token secret --mqtt-message-namespace 'a'\n"},
		"topics with a quote":     {server: "mqtts://b:8883", device: withNamespace("it's"), want: `--mqtt-message-namespace 'it'\''s'` + "\n"},
		"unreadable EdgeDevice":   {server: "mqtts://b:8883", want: "arhat join --server mqtts://b:8883 --token secret\n", warning: "add --mqtt-message-namespace"},
		"changed to grpc in time": {server: "mqtts://b:8883", device: &v1alpha1.EdgeDevice{}, want: "arhat join --server mqtts://b:8883 --token secret\n"},
	} {
		t.Run(name, func(t *testing.T) {
			c := testClient(t, func(w http.ResponseWriter, r *http.Request) {
				w.Header().Set("Content-Type", "application/json")
				switch {
				case r.Method == http.MethodPost && strings.HasSuffix(r.URL.Path, "/namespaces/edge/edgedevices/device-1/token"):
					_ = json.NewEncoder(w).Encode(&v1alpha1.EnrollmentToken{
						TypeMeta: metav1.TypeMeta{APIVersion: v1alpha1.SchemeGroupVersion.String(), Kind: "EnrollmentToken"},
						Status:   v1alpha1.EnrollmentTokenStatus{Token: "secret", Server: test.server}})
				case r.Method == http.MethodGet && strings.HasSuffix(r.URL.Path, "/edgedevices/device-1") && test.device != nil:
					test.device.TypeMeta = metav1.TypeMeta{APIVersion: v1alpha1.SchemeGroupVersion.String(), Kind: "EdgeDevice"}
					_ = json.NewEncoder(w).Encode(test.device)
				default:
					w.WriteHeader(http.StatusForbidden)
				}
			})
			streams, _, out, errOut := genericiooptions.NewTestIOStreams()
			c.IOStreams = streams
			cmd := newTokenCommand(c)
			cmd.SetArgs([]string{"device-1"})
			if err := cmd.ExecuteContext(t.Context()); err != nil {
				t.Fatal(err)
			}
			if !strings.HasSuffix(out.String(), test.want) {
				t.Errorf("printed %q, want %q at the end", out, test.want)
			}
			if got := errOut.String(); !strings.Contains(got, test.warning) || (test.warning == "" && got != "") {
				t.Errorf("warned %q, want %q", got, test.warning)
			}
		})
	}
}

func TestTokenOutput(t *testing.T) {
	for name, test := range map[string]struct {
		args      []string
		want, err string
		created   int
	}{
		"a template alone":     {args: []string{"--template", "{{.status.token}}"}, want: "secret", created: 1},
		"a template of -o":     {args: []string{"-o", "go-template={{.status.token}}"}, want: "secret", created: 1},
		"a format that is not": {args: []string{"-o", "table"}, err: "output format"},
		"two outputs":          {args: []string{"--token-only", "--template", "x"}, err: "token-only"},
	} {
		t.Run(name, func(t *testing.T) {
			created := 0
			c := testClient(t, func(w http.ResponseWriter, _ *http.Request) {
				created++
				w.Header().Set("Content-Type", "application/json")
				_ = json.NewEncoder(w).Encode(&v1alpha1.EnrollmentToken{
					TypeMeta: metav1.TypeMeta{APIVersion: v1alpha1.SchemeGroupVersion.String(), Kind: "EnrollmentToken"},
					Status:   v1alpha1.EnrollmentTokenStatus{Token: "secret"}})
			})
			streams, _, out, _ := genericiooptions.NewTestIOStreams()
			c.IOStreams = streams
			cmd := newTokenCommand(c)
			cmd.SilenceErrors, cmd.SilenceUsage = true, true
			cmd.SetArgs(append([]string{"device-1"}, test.args...))
			err := cmd.ExecuteContext(t.Context())
			if test.err == "" && err != nil || test.err != "" && (err == nil || !strings.Contains(err.Error(), test.err)) {
				t.Errorf("error %v, want %q", err, test.err)
			}
			if out.String() != test.want || created != test.created {
				t.Errorf("printed %q with %d tokens created, want %q with %d", out, created, test.want, test.created)
			}
		})
	}
}
