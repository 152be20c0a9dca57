package criconfig

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	v1 "k8s.io/api/core/v1"
	"k8s.io/utils/ptr"

	"arhat.dev/aranya/pkg/edge/agent/volumes"
)

func TestParseEnvFile(t *testing.T) {
	for text, want := range map[string]map[string]string{
		"":                                 {},
		"\n# c\n  \n":                      {},
		"A='1'":                            {"A": "1"},
		" A='$B \\n \"x\"'  \nB=''\r\n":    {"A": "$B \\n \"x\"", "B": ""},
		"A='one\n# two\nthree'\nA.b='4'\n": {"A": "one\n# two\nthree", "A.b": "4"},
		"A='1'\nA='2'":                     {"A": "2"},
	} {
		got, err := parseEnvFile(text)
		if err != nil {
			t.Errorf("%q: %v", text, err)
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("%q: %s", text, diff)
		}
	}
	for text, want := range map[string]string{
		"A=1": "line 1: the value of A is not in single quotes", "\nA='1": "line 2: the value of A has no closing quote", "x": "line 1: it is not of the form",
		"A ='1'": "line 1: it is not of the form", "A='1\n'\nB": "line 3: it is not of the form", "A='1' B='2'": "line 1: there is something after", "='1'": "line 1",
		"x\nA='1'": "line 1",
	} {
		if _, err := parseEnvFile(text); err == nil || !strings.HasPrefix(err.Error(), want) {
			t.Errorf("%q: got %v, want %q", text, err, want)
		}
	}
}

func FuzzParseEnvFile(f *testing.F) {
	f.Add("A='1'\n# x\nB='2\n3'")
	f.Add("A='")
	f.Fuzz(func(t *testing.T, text string) {
		values, err := parseEnvFile(text)
		for name, value := range values {
			if err == nil && !strings.Contains(text, name+"='"+value+"'") {
				t.Errorf("%q=%q is not in %q", name, value, text)
			}
		}
	})
}

func TestFileKeyRef(t *testing.T) {
	dir := t.TempDir()
	for name, text := range map[string]string{"env": "A='1'\n", "bad": "A", "big": strings.Repeat("#", maxEnvFile+1)} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	secret := filepath.Join(t.TempDir(), "secret")
	if err := os.WriteFile(secret, []byte("A='of the host'"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(secret, filepath.Join(dir, "out")); err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(filepath.Join(dir, "dir"), 0o700); err != nil {
		t.Fatal(err)
	}
	files := Files{Mounted: map[string]volumes.Mounted{"v": {Path: dir}}}
	for _, tc := range []struct {
		volume, path, key string
		optional          bool
		want, err         string
	}{
		{volume: "v", path: "env", key: "A", want: "1"},
		{volume: "v", path: "env", key: "B", err: `environment variable key "B" not found in file "env" of volume "v"`},
		{volume: "v", path: "env", key: "B", optional: true, err: errNoValue.Error()},
		{volume: "v", path: "none", key: "A", err: `couldn't read env file "none" of volume "v"`},
		{volume: "v", path: "none", key: "A", optional: true, err: errNoValue.Error()},
		{volume: "v", path: "bad", key: "A", optional: true, err: `couldn't parse env file "bad" of volume "v": line 1`},
		{volume: "v", path: "out", key: "A", optional: true, err: "it leads out of the volume"},
		{volume: "v", path: "dir", key: "A", err: "not a regular file"},
		{volume: "v", path: "big", key: "A", err: "larger than"},
		{volume: "w", path: "env", key: "A", err: `cannot find the volume "w"`},
	} {
		got, err := fileValue(files, &v1.FileKeySelector{VolumeName: tc.volume, Path: tc.path, Key: tc.key, Optional: ptr.To(tc.optional)})
		if got != tc.want || (err == nil) != (tc.err == "") || (err != nil && !strings.Contains(err.Error(), tc.err)) {
			t.Errorf("%+v: got %q, %v", tc, got, err)
		}
	}
	// What is optional and not there leaves no variable.
	pod := testPod(v1.Container{Name: "c", Env: []v1.EnvVar{
		{Name: "HAS", ValueFrom: &v1.EnvVarSource{FileKeyRef: &v1.FileKeySelector{VolumeName: "v", Path: "env", Key: "A"}}},
		{Name: "HASNOT", ValueFrom: &v1.EnvVarSource{FileKeyRef: &v1.FileKeySelector{VolumeName: "v", Path: "env", Key: "B", Optional: ptr.To(true)}}},
	}})
	envs, err := environment(pod, &pod.Spec.Containers[0], &Node{}, nil, files)
	if err != nil || len(envs) != 1 || envs[0].Key != "HAS" || string(envs[0].Value) != "1" {
		t.Errorf("got %v, %v", envs, err)
	}
}
