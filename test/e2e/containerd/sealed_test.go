package containerd_test

import (
	"bytes"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"testing"

	corev1 "k8s.io/api/core/v1"

	"arhat.dev/aranya/test/framework/suite"
)

// What a Secret holds lies on the device's disk in no file that can be read without the device's own
// secret: neither the record of the pod nor the volume. (What the container runtime keeps of environment
// variables is its own business, as on any Node.)
func TestSecretsAreSealedOnDisk(t *testing.T) {
	e := suite.Get(t)
	name := suite.Name("sealed")
	const content = "a secret that is told from all others"
	e.Apply(t, `{apiVersion: v1, kind: Secret, metadata: {namespace: edge, name: `+name+`}, stringData: {password: `+content+`}}`)
	pod := suite.Busybox(device, `[ "$PASSWORD" = "$(cat /secret/password)" ] || exit 1; while :; do sleep 1; done`)
	ref := corev1.LocalObjectReference{Name: name}
	pod.Spec.Containers[0].Env = []corev1.EnvVar{{Name: "PASSWORD", ValueFrom: &corev1.EnvVarSource{SecretKeyRef: &corev1.SecretKeySelector{LocalObjectReference: ref, Key: "password"}}}}
	pod.Spec.Volumes = []corev1.Volume{{Name: "secret", VolumeSource: corev1.VolumeSource{Secret: &corev1.SecretVolumeSource{SecretName: name}}}}
	pod.Spec.Containers[0].VolumeMounts = []corev1.VolumeMount{{Name: "secret", MountPath: "/secret"}}
	created := e.RunPod(t, pod)
	if got := e.Kubectl(t, "-n", "edge", "exec", created.Name, "--", "cat", "/secret/password"); got != content {
		t.Fatalf("the container sees %q", got)
	}
	records := 0
	root := filepath.Join(e.Cluster.Dir, "devices", device)
	err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		switch {
		case errors.Is(err, fs.ErrNotExist):
			return nil // gone meanwhile
		case err != nil:
			return err
		case d.IsDir() && d.Name() == "containerd":
			return fs.SkipDir
		case !d.Type().IsRegular():
			return nil
		}
		data, err := os.ReadFile(path)
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		} else if err != nil {
			return err
		}
		if filepath.Base(path) == string(created.UID)+".pod" {
			records++
		}
		if bytes.Contains(data, []byte(content)) {
			t.Errorf("%s holds the Secret in plain", path)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if records != 1 {
		t.Errorf("%d records of the pod were looked at, want one", records)
	}
}
