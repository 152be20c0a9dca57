package resolve

import (
	"context"
	"errors"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/utils/ptr"

	edgeapi "arhat.dev/aranya/pkg/edge/api"
)

func volumePod(source corev1.VolumeSource) *corev1.Pod {
	return pod(func(p *corev1.Pod) { p.Spec.Volumes = []corev1.Volume{{Name: "v", VolumeSource: source}} })
}

func TestVolumes(t *testing.T) {
	mode := ptr.To[int32](0o640)
	name := func(n string) corev1.LocalObjectReference { return corev1.LocalObjectReference{Name: n} }
	items := func(key string) []corev1.KeyToPath {
		return []corev1.KeyToPath{{Key: key, Path: "dir/file", Mode: ptr.To[int32](0o400)}}
	}
	projected := func(sources ...corev1.VolumeProjection) corev1.VolumeSource {
		return corev1.VolumeSource{Projected: &corev1.ProjectedVolumeSource{DefaultMode: mode, Sources: sources}}
	}
	file := func(path, data string, mode uint32) *edgeapi.File {
		return &edgeapi.File{Path: path, Data: []byte(data), Mode: mode}
	}
	for n, tt := range map[string]struct {
		source  corev1.VolumeSource
		want    []*edgeapi.File
		missing string
	}{
		"config map": {
			source: corev1.VolumeSource{ConfigMap: &corev1.ConfigMapVolumeSource{LocalObjectReference: name("cm"), DefaultMode: mode}},
			want:   []*edgeapi.File{file("a", "1", 0o640), file("bin", "\x00\x01", 0o640), file("cost", "$5 $(A)", 0o640)},
		},
		"config map items": {
			source: corev1.VolumeSource{ConfigMap: &corev1.ConfigMapVolumeSource{LocalObjectReference: name("cm"), DefaultMode: mode, Items: items("a")}},
			want:   []*edgeapi.File{file("dir/file", "1", 0o400)},
		},
		"config map binary item": {
			source: corev1.VolumeSource{ConfigMap: &corev1.ConfigMapVolumeSource{LocalObjectReference: name("cm"), Items: []corev1.KeyToPath{{Key: "bin", Path: "b"}}}},
			want:   []*edgeapi.File{file("b", "\x00\x01", 0o644)},
		},
		"missing config map": {
			source:  corev1.VolumeSource{ConfigMap: &corev1.ConfigMapVolumeSource{LocalObjectReference: name("no"), DefaultMode: mode}},
			missing: `MountVolume.SetUp failed for volume "v" : configmap "no" not found`,
		},
		"optional config map": {
			source: corev1.VolumeSource{ConfigMap: &corev1.ConfigMapVolumeSource{LocalObjectReference: name("no"), Optional: ptr.To(true)}},
		},
		"missing item": {
			source:  corev1.VolumeSource{ConfigMap: &corev1.ConfigMapVolumeSource{LocalObjectReference: name("cm"), Items: items("no")}},
			missing: `MountVolume.SetUp failed for volume "v" : configmap references non-existent config key: no`,
		},
		"optional item": {
			source: corev1.VolumeSource{ConfigMap: &corev1.ConfigMapVolumeSource{LocalObjectReference: name("cm"), Items: items("no"), Optional: ptr.To(true)}},
		},
		"secret": {
			source: corev1.VolumeSource{Secret: &corev1.SecretVolumeSource{SecretName: "s", DefaultMode: mode}},
			want:   []*edgeapi.File{file("password", "x$y", 0o640)},
		},
		"secret item": {
			source: corev1.VolumeSource{Secret: &corev1.SecretVolumeSource{SecretName: "s", Items: items("password")}},
			want:   []*edgeapi.File{file("dir/file", "x$y", 0o400)},
		},
		"missing secret": {
			source:  corev1.VolumeSource{Secret: &corev1.SecretVolumeSource{SecretName: "no"}},
			missing: `MountVolume.SetUp failed for volume "v" : secret "no" not found`,
		},
		"missing secret item": {
			source:  corev1.VolumeSource{Secret: &corev1.SecretVolumeSource{SecretName: "s", Items: items("no")}},
			missing: `MountVolume.SetUp failed for volume "v" : references non-existent secret key: no`,
		},
		"projected": {
			source: projected(
				corev1.VolumeProjection{ConfigMap: &corev1.ConfigMapProjection{LocalObjectReference: name("cm2")}},
				corev1.VolumeProjection{Secret: &corev1.SecretProjection{LocalObjectReference: name("s")}},
				corev1.VolumeProjection{Secret: &corev1.SecretProjection{LocalObjectReference: name("no"), Optional: ptr.To(true)}},
				corev1.VolumeProjection{ServiceAccountToken: &corev1.ServiceAccountTokenProjection{Path: "token"}},
				corev1.VolumeProjection{DownwardAPI: &corev1.DownwardAPIProjection{}},
			),
			want: []*edgeapi.File{file("a", "2", 0o640), file("password", "x$y", 0o640), file("token", "t1", 0o640)},
		},
		"projected, missing": {
			source:  projected(corev1.VolumeProjection{ConfigMap: &corev1.ConfigMapProjection{LocalObjectReference: name("no")}}),
			missing: `MountVolume.SetUp failed for volume "v" : configmap "no" not found`,
		},
		"trust bundle": {
			source: projected(corev1.VolumeProjection{ClusterTrustBundle: &corev1.ClusterTrustBundleProjection{Name: ptr.To("b"), Path: "ca.pem"}}),
			want:   []*edgeapi.File{file("ca.pem", "anchors of b", 0o640)},
		},
		"trust bundle, missing": {
			source:  projected(corev1.VolumeProjection{ClusterTrustBundle: &corev1.ClusterTrustBundleProjection{Name: ptr.To("no"), Path: "ca.pem"}}),
			missing: `MountVolume.SetUp failed for volume "v" : no bundle no`,
		},
		"pod certificate": {
			source:  projected(corev1.VolumeProjection{PodCertificate: &corev1.PodCertificateProjection{}}),
			missing: `MountVolume.SetUp failed for volume "v" : podCertificate sources are not available on edge devices`,
		},
	} {
		t.Run(n, func(t *testing.T) {
			result, err := resolver().Pod(context.Background(), volumePod(tt.source))
			if tt.missing != "" {
				var missing *Unresolved
				if !errors.As(err, &missing) || len(missing.Volumes) != 1 || missing.Volumes[0] != tt.missing {
					t.Fatalf("error: %v", err)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			got := result.Message.Volumes
			if len(got) != 1 || got[0].Name != "v" || len(got[0].Files) != len(tt.want) {
				t.Fatalf("volumes: %v", got)
			}
			for i, f := range tt.want {
				if g := got[0].Files[i]; g.Path != f.Path || string(g.Data) != string(f.Data) || g.Mode != f.Mode {
					t.Errorf("file %v, want %v", g, f)
				}
			}
		})
	}
}

func TestOtherVolumesAreLeftToTheDevice(t *testing.T) {
	result, err := resolver().Pod(context.Background(), volumePod(corev1.VolumeSource{EmptyDir: &corev1.EmptyDirVolumeSource{}}))
	if err != nil || len(result.Message.Volumes) > 0 || result.Message.VolumesDigest != "" {
		t.Errorf("%v %v", result, err)
	}
}

func TestTooLargeVolumes(t *testing.T) {
	r := resolver()
	r.Objects = known{configMaps: map[string]*corev1.ConfigMap{"big": {BinaryData: map[string][]byte{"x": make([]byte, maxVolumeBytes+1)}}}}
	_, err := r.Pod(context.Background(), volumePod(corev1.VolumeSource{ConfigMap: &corev1.ConfigMapVolumeSource{LocalObjectReference: corev1.LocalObjectReference{Name: "big"}}}))
	var missing *Unresolved
	if !errors.As(err, &missing) || len(missing.Volumes) != 1 || !strings.Contains(missing.Volumes[0], "a device takes at most") {
		t.Errorf("error: %v", err)
	}
}

// TestVolumesDoNotDependOnTheRest has something missing elsewhere in the pod.
func TestVolumesDoNotDependOnTheRest(t *testing.T) {
	volume := func(name string, source corev1.VolumeSource) func(*corev1.Pod) {
		return func(p *corev1.Pod) {
			p.Spec.Volumes = append(p.Spec.Volumes, corev1.Volume{Name: name, VolumeSource: source})
		}
	}
	secret := func(name string) corev1.VolumeSource {
		return corev1.VolumeSource{Secret: &corev1.SecretVolumeSource{SecretName: name}}
	}
	projected := func(source corev1.VolumeProjection) corev1.VolumeSource {
		return corev1.VolumeSource{Projected: &corev1.ProjectedVolumeSource{Sources: []corev1.VolumeProjection{source}}}
	}
	token := projected(corev1.VolumeProjection{ServiceAccountToken: &corev1.ServiceAccountTokenProjection{Path: "token"}})
	for name, tt := range map[string]struct {
		lacks  func(*corev1.Pod)
		tokens error
	}{
		"environment": {lacks: func(p *corev1.Pod) {
			p.Spec.Containers[0].Env = []corev1.EnvVar{{Name: "A", ValueFrom: configMapKey("no", "a", false)}}
		}},
		"volume":        {lacks: volume("lost", secret("no"))},
		"trust bundle":  {lacks: volume("lost", projected(corev1.VolumeProjection{ClusterTrustBundle: &corev1.ClusterTrustBundleProjection{Name: ptr.To("no")}}))},
		"token":         {lacks: volume("lost", token), tokens: errors.New("no route")},
		"runtime class": {lacks: func(p *corev1.Pod) { p.Spec.RuntimeClassName = ptr.To("other") }},
		"room":          {lacks: volume("lost", secret("big"))},
	} {
		t.Run(name, func(t *testing.T) {
			r := resolver()
			r.Tokens = tokens{token: "t1", err: tt.tokens}
			r.Objects = known{secrets: map[string]*corev1.Secret{"s": objects.secrets["s"], "big": {Data: map[string][]byte{"x": make([]byte, maxVolumeBytes)}}}}
			alone, err := r.Pod(context.Background(), pod(volume("v", secret("s"))))
			if err != nil {
				t.Fatal(err)
			}
			got, err := r.Pod(context.Background(), pod(volume("v", secret("s")), tt.lacks))
			if err == nil {
				t.Fatal("nothing is missing")
			}
			if got == nil || len(got.Message.Volumes) != 1 || got.Message.Volumes[0].Name != "v" || got.Message.Uid != alone.Message.Uid {
				t.Fatalf("got %v", got)
			}
			if got.Message.Pod != nil || got.Message.Digest != "" {
				t.Error("the pod itself is taken for resolved")
			}
			if got.Message.VolumesDigest != alone.Message.VolumesDigest {
				t.Error("the digest is not that of the volumes that are there")
			}
		})
	}
}

func TestKeepVolumes(t *testing.T) {
	result := func(volumes ...string) *Result {
		p := pod()
		for _, name := range volumes {
			p.Spec.Volumes = append(p.Spec.Volumes, corev1.Volume{Name: name, VolumeSource: corev1.VolumeSource{Secret: &corev1.SecretVolumeSource{SecretName: "s"}}})
		}
		r, err := resolver().Pod(context.Background(), p)
		if err != nil {
			t.Fatal(err)
		}
		return r
	}
	whole, part := result("a", "b"), result("b")
	part.Keep(map[string]string{"a": whole.VolumeDigests["a"], "b": "outdated"}, map[string]string{"a": "token"})
	if part.Message.VolumesDigest != whole.Message.VolumesDigest || part.VolumeTokens["a"] != "token" {
		t.Errorf("got %s and tokens %v, want %s", part.Message.VolumesDigest, part.VolumeTokens, whole.Message.VolumesDigest)
	}
	if len(part.Message.Volumes) != 1 {
		t.Errorf("there is content of %d volumes, want that of b", len(part.Message.Volumes))
	}
}
