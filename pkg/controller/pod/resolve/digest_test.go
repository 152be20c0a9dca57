package resolve

import (
	"context"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"
)

func TestDigest(t *testing.T) {
	base := func(p *corev1.Pod) {
		p.Spec.EnableServiceLinks = ptr.To(true)
		p.Spec.Containers[0].Env = []corev1.EnvVar{{Name: "A", ValueFrom: configMapKey("cm", "a", false)}}
		p.Spec.Volumes = []corev1.Volume{{Name: "v", VolumeSource: corev1.VolumeSource{Projected: &corev1.ProjectedVolumeSource{Sources: []corev1.VolumeProjection{
			{ServiceAccountToken: &corev1.ServiceAccountTokenProjection{Path: "token", ExpirationSeconds: ptr.To[int64](3600)}},
			{ConfigMap: &corev1.ConfigMapProjection{LocalObjectReference: corev1.LocalObjectReference{Name: "cm2"}}},
		}}}}}
	}
	digests := func(r *Resolver, change ...func(*corev1.Pod)) (string, string, *Result) {
		result, err := r.Pod(context.Background(), pod(append([]func(*corev1.Pod){base}, change...)...))
		if err != nil {
			t.Fatal(err)
		}
		return result.Message.Digest, result.Message.VolumesDigest, result
	}
	digest, volumes, first := digests(resolver())
	if !first.Refresh.Equal(time.Unix(1000, 0)) {
		t.Errorf("refresh: %v", first.Refresh)
	}

	rotated := resolver()
	rotated.Tokens = tokens{token: "t2"}
	other := resolver()
	other.Objects = known{configMaps: map[string]*corev1.ConfigMap{"cm": {Data: map[string]string{"a": "changed"}}, "cm2": objects.configMaps["cm2"]}}
	content := resolver()
	content.Objects = known{configMaps: map[string]*corev1.ConfigMap{"cm": objects.configMaps["cm"], "cm2": {Data: map[string]string{"a": "changed"}}}}
	service := resolver(&corev1.Service{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "s"}, Spec: corev1.ServiceSpec{ClusterIP: "10.0.0.9", Ports: []corev1.ServicePort{{Port: 1}}}})

	for name, tt := range map[string]struct {
		resolver                  *Resolver
		change                    func(*corev1.Pod)
		samePod, sameVolumes, tok bool
	}{
		"again":            {resolver: resolver(), change: func(*corev1.Pod) {}, samePod: true, sameVolumes: true, tok: true},
		"status":           {resolver: resolver(), change: func(p *corev1.Pod) { p.Status.Phase = corev1.PodRunning }, samePod: true, sameVolumes: true, tok: true},
		"resource version": {resolver: resolver(), change: func(p *corev1.Pod) { p.ResourceVersion = "8" }, samePod: true, sameVolumes: true, tok: true},
		"service":          {resolver: service, change: func(*corev1.Pod) {}, samePod: true, sameVolumes: true, tok: true},
		"token rotated":    {resolver: rotated, change: func(*corev1.Pod) {}, samePod: true, sameVolumes: true},
		"env changed":      {resolver: other, change: func(*corev1.Pod) {}, sameVolumes: true, tok: true},
		"volume changed":   {resolver: content, change: func(*corev1.Pod) {}, samePod: true, tok: true},
		"label":            {resolver: resolver(), change: func(p *corev1.Pod) { p.Labels["x"] = "2" }, sameVolumes: true, tok: true},
		"annotation":       {resolver: resolver(), change: func(p *corev1.Pod) { p.Annotations = map[string]string{"a": "b"} }, sameVolumes: true, tok: true},
		"image":            {resolver: resolver(), change: func(p *corev1.Pod) { p.Spec.Containers[0].Image = "new" }, sameVolumes: true, tok: true},
		"credentials": {resolver: resolver(), change: func(p *corev1.Pod) {
			p.Spec.ImagePullSecrets = []corev1.LocalObjectReference{{Name: "pull"}}
		}, sameVolumes: true, tok: true},
	} {
		d, v, result := digests(tt.resolver, tt.change)
		if (d == digest) != tt.samePod {
			t.Errorf("%s: pod digest same: %v, want %v", name, d == digest, tt.samePod)
		}
		if (v == volumes) != tt.sameVolumes {
			t.Errorf("%s: volumes digest same: %v, want %v", name, v == volumes, tt.sameVolumes)
		}
		if same := result.VolumeTokens["v"] == first.VolumeTokens["v"]; same != tt.tok {
			t.Errorf("%s: tokens same: %v, want %v", name, same, tt.tok)
		}
	}
}

func TestReferences(t *testing.T) {
	p := pod(func(p *corev1.Pod) {
		p.Spec.Containers[0].Env = []corev1.EnvVar{{Name: "A", ValueFrom: configMapKey("env-cm", "a", true)}, {Name: "B", ValueFrom: secretKey("env-s", "a", true)}}
		p.Spec.Containers[0].EnvFrom = []corev1.EnvFromSource{fromConfigMap("", "from-cm", true), fromSecret("", "from-s", true)}
		p.Spec.ImagePullSecrets = []corev1.LocalObjectReference{{Name: "pull"}, {Name: ""}}
		p.Spec.Volumes = []corev1.Volume{
			{VolumeSource: corev1.VolumeSource{ConfigMap: &corev1.ConfigMapVolumeSource{LocalObjectReference: corev1.LocalObjectReference{Name: "vol-cm"}}}},
			{VolumeSource: corev1.VolumeSource{Secret: &corev1.SecretVolumeSource{SecretName: "vol-s"}}},
			{VolumeSource: corev1.VolumeSource{Projected: &corev1.ProjectedVolumeSource{Sources: []corev1.VolumeProjection{
				{ConfigMap: &corev1.ConfigMapProjection{LocalObjectReference: corev1.LocalObjectReference{Name: "proj-cm"}}},
				{Secret: &corev1.SecretProjection{LocalObjectReference: corev1.LocalObjectReference{Name: "proj-s"}}},
			}}}},
		}
	})
	refs := References(p)
	for _, name := range []string{"env-cm", "from-cm", "vol-cm", "proj-cm"} {
		if !refs.Has(Reference{Namespace: "ns", Name: name}) {
			t.Errorf("no ConfigMap %s", name)
		}
	}
	for _, name := range []string{"env-s", "from-s", "vol-s", "proj-s", "pull"} {
		if !refs.Has(Reference{Secret: true, Namespace: "ns", Name: name}) {
			t.Errorf("no Secret %s", name)
		}
	}
	if refs.Len() != 9 {
		t.Errorf("%d references", refs.Len())
	}
}

func FuzzPullSecret(f *testing.F) {
	f.Add([]byte(`{"auths":{"a":{"auth":"dTpw"}}}`), true)
	f.Add([]byte(`{"a":{"username":"u"}}`), false)
	f.Fuzz(func(t *testing.T, data []byte, modern bool) {
		s := &corev1.Secret{Type: corev1.SecretTypeDockercfg, Data: map[string][]byte{corev1.DockerConfigKey: data}}
		if modern {
			s = &corev1.Secret{Type: corev1.SecretTypeDockerConfigJson, Data: map[string][]byte{corev1.DockerConfigJsonKey: data}}
		}
		if credentials, err := parsePullSecret(s); err != nil && credentials != nil {
			t.Error("credentials beside an error")
		}
	})
}
