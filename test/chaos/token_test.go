package chaos_test

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/utils/ptr"

	"arhat.dev/aranya/test/framework/suite"
)

// tokenLife is the shortest that Kubernetes permits.
const tokenLife = 10 * time.Minute

// TestTokenIsReplaced looks at the service account token in a container for as long as one lives: another takes its
// place before it expires. It takes eight minutes, and runs with trials that are longer anyway.
func TestTokenIsReplaced(t *testing.T) {
	e := suite.Get(t)
	if rounds, _ := parameters(t); rounds < 100 {
		t.Skip("it takes as long as the shortest life of a token: run make chaos")
	}
	pod := suite.Busybox(device, forever)
	pod.Spec.Volumes = []corev1.Volume{{Name: "token", VolumeSource: corev1.VolumeSource{Projected: &corev1.ProjectedVolumeSource{Sources: []corev1.VolumeProjection{
		{ServiceAccountToken: &corev1.ServiceAccountTokenProjection{Path: "token", ExpirationSeconds: ptr.To(int64(tokenLife.Seconds()))}},
	}}}}}
	pod.Spec.Containers[0].VolumeMounts = []corev1.VolumeMount{{Name: "token", MountPath: "/token"}}
	pod = e.RunPod(t, pod)
	read := func() (issued, expires time.Time, err error) {
		r := e.TryKubectl(t, "", "-n", pod.Namespace, "exec", pod.Name, "--", "cat", "/token/token")
		parts := strings.Split(r.Stdout, ".")
		if len(parts) != 3 {
			return issued, expires, fmt.Errorf("no token: %+v", r)
		}
		data, err := base64.RawURLEncoding.DecodeString(parts[1])
		if err != nil {
			return issued, expires, err
		}
		claims := struct{ Iat, Exp int64 }{}
		err = json.Unmarshal(data, &claims)
		return time.Unix(claims.Iat, 0), time.Unix(claims.Exp, 0), err
	}
	first, expires, err := read()
	if err != nil || expires.Sub(first) != tokenLife {
		t.Fatalf("issued at %s, expires at %s: %v", first, expires, err)
	}
	suite.Eventually(t, time.Until(expires), "another token takes the place of the one that is about to expire", func(ctx context.Context) error {
		issued, _, err := read()
		if err == nil && issued.Equal(first) {
			err = fmt.Errorf("it is still the one of %s", first)
		}
		if err != nil {
			select { // as often as it matters
			case <-time.After(2 * time.Second):
			case <-ctx.Done():
			}
		}
		return err
	})
	issued, _, err := read()
	if err != nil {
		t.Fatal(err)
	}
	fmt.Printf("a token of %s was replaced after %s\n", tokenLife, issued.Sub(first))
}
