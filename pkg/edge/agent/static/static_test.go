package static

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	v1 "k8s.io/api/core/v1"
	"k8s.io/utils/ptr"

	"arhat.dev/aranya/pkg/edge/staticpod"
)

const manifest = `apiVersion: v1
kind: Pod
metadata:
  name: web
  labels: {app: web}
  annotations: {note: kept}
spec:
  hostNetwork: true
  initContainers:
  - {name: first, image: "registry:5000/first"}
  containers:
  - name: main
    image: busybox:1
    ports: [{containerPort: 80}]
    resources: {limits: {cpu: 100m}}
    env: [{name: NODE, valueFrom: {fieldRef: {fieldPath: spec.nodeName}}}]
    livenessProbe: {httpGet: {port: 80}}
    volumeMounts: [{name: data, mountPath: /data}]
  volumes:
  - {name: data}
  - {name: host, hostPath: {path: /etc}}
`

func parse(data string) (*v1.Pod, error) {
	return Parse([]byte(data), "/manifests/web.yaml", "edge", "Device-1")
}

func TestParse(t *testing.T) {
	pod, err := parse(manifest)
	if err != nil {
		t.Fatal(err)
	}
	if pod.Name != "web-device-1" || pod.Namespace != "edge" || pod.Spec.NodeName != "Device-1" || pod.Labels["app"] != "web" {
		t.Errorf("got %s/%s on %s, labels %v", pod.Namespace, pod.Name, pod.Spec.NodeName, pod.Labels)
	}
	if !staticpod.ValidHash(string(pod.UID)) || pod.Annotations[staticpod.AnnotationHash] != string(pod.UID) ||
		pod.Annotations[staticpod.AnnotationSource] != "file" || pod.Annotations["note"] != "kept" {
		t.Errorf("UID %q, annotations %v", pod.UID, pod.Annotations)
	}
	if _, err := time.Parse(time.RFC3339Nano, pod.Annotations["kubernetes.io/config.seen"]); err != nil {
		t.Errorf("when it was seen: %v", err)
	}
	main, spec := pod.Spec.Containers[0], pod.Spec
	for what, ok := range map[string]bool{
		"restart policy":   spec.RestartPolicy == v1.RestartPolicyAlways && spec.DNSPolicy == v1.DNSClusterFirst,
		"grace period":     *spec.TerminationGracePeriodSeconds == 30,
		"toleration":       spec.Tolerations[0] == v1.Toleration{Operator: v1.TolerationOpExists, Effect: v1.TaintEffectNoExecute},
		"pull policies":    main.ImagePullPolicy == v1.PullIfNotPresent && spec.InitContainers[0].ImagePullPolicy == v1.PullAlways,
		"message":          main.TerminationMessagePath == "/dev/termination-log" && main.TerminationMessagePolicy == v1.TerminationMessageReadFile,
		"port":             main.Ports[0] == v1.ContainerPort{ContainerPort: 80, HostPort: 80, Protocol: v1.ProtocolTCP},
		"requests":         main.Resources.Requests.Cpu().String() == "100m",
		"field reference":  main.Env[0].ValueFrom.FieldRef.APIVersion == "v1",
		"probe":            main.LivenessProbe.PeriodSeconds == 10 && main.LivenessProbe.FailureThreshold == 3 && main.LivenessProbe.TimeoutSeconds == 1,
		"probe's path":     main.LivenessProbe.HTTPGet.Path == "/" && main.LivenessProbe.HTTPGet.Scheme == v1.URISchemeHTTP,
		"emptyDir":         spec.Volumes[0].EmptyDir != nil,
		"type of hostPath": ptr.Deref(spec.Volumes[1].HostPath.Type, "?") == v1.HostPathUnset,
	} {
		if !ok {
			t.Errorf("%s: %+v", what, spec)
		}
	}
	again, _ := parse(manifest)
	changed, _ := parse(strings.Replace(manifest, "busybox:1", "busybox:2", 1))
	if again.UID != pod.UID || changed.UID == pod.UID {
		t.Errorf("UIDs %q, again %q, changed %q", pod.UID, again.UID, changed.UID)
	}
	if _, err := parse(`{"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "j", "namespace": "edge"}, "spec": {"containers": [{"name": "c", "image": "i"}]}}`); err != nil {
		t.Errorf("JSON: %v", err)
	}
}

func TestRefused(t *testing.T) {
	pod := func(spec string) string {
		return "apiVersion: v1\nkind: Pod\nmetadata: {name: web}\nspec: " + spec
	}
	with := func(more string) string { return pod("{containers: [{name: c, image: i}], " + more + "}") }
	inside := func(more string) string { return pod("{containers: [{name: c, image: i, " + more + "}]}") }
	for name, test := range map[string]struct{ data, want string }{
		"empty":                 {"", `is "" of version ""`},
		"no YAML":               {"a: [", "neither YAML nor JSON"},
		"another kind":          {"apiVersion: apps/v1\nkind: Deployment", `is "Deployment" of version "apps/v1"`},
		"another namespace":     {"apiVersion: v1\nkind: Pod\nmetadata: {name: web, namespace: kube-system}\nspec: {containers: [{name: c, image: i}]}", `namespace of the EdgeDevice, "edge"`},
		"no name":               {"apiVersion: v1\nkind: Pod\nspec: {containers: [{name: c, image: i}]}", "no name"},
		"a name that is a path": {"apiVersion: v1\nkind: Pod\nmetadata: {name: ../../etc}\nspec: {containers: [{name: c, image: i}]}", "cannot be used"},
		"no containers":         {pod("{}"), "no containers"},
		"two of a name":         {pod("{containers: [{name: c, image: i}, {name: c, image: i}]}"), "used twice"},
		"a container's path":    {pod("{containers: [{name: ../c, image: i}]}"), "not a DNS label"},
		"no image":              {pod("{containers: [{name: c}]}"), "no image"},
		"an unknown volume":     {inside("volumeMounts: [{name: x, mountPath: /x}]"), `mounts the volume "x"`},
		"a mount without path":  {pod("{containers: [{name: c, image: i, volumeMounts: [{name: x}]}], volumes: [{name: x}]}"), "where the volume"},
		"a volume's path":       {with("volumes: [{name: ../../x}]"), "not a DNS label"},
		"ephemeral containers":  {with("ephemeralContainers: [{name: d, image: i}]"), "ephemeral containers"},
		"service account":       {with("serviceAccountName: admin"), "service accounts"},
		"pull secrets":          {with("imagePullSecrets: [{name: s}]"), "secrets (imagePullSecrets)"},
		"resource claims":       {with("resourceClaims: [{name: s, resourceClaimName: c}]"), "resource claims"},
		"secret volume":         {with("volumes: [{name: v, secret: {secretName: s}}]"), `secrets (volume "v")`},
		"config map volume":     {with("volumes: [{name: v, configMap: {name: s}}]"), `configmaps (volume "v")`},
		"token":                 {with("volumes: [{name: v, projected: {sources: [{serviceAccountToken: {path: t}}]}}]"), "service accounts"},
		"claim":                 {with("volumes: [{name: v, persistentVolumeClaim: {claimName: s}}]"), "volumes other than"},
		"secret in env":         {inside("env: [{name: A, valueFrom: {secretKeyRef: {name: s, key: k}}}]"), `secrets (environment of container "c")`},
		"config map in env":     {inside("envFrom: [{configMapRef: {name: s}}]"), "configmaps (environment"},
		"secrets in env":        {inside("envFrom: [{secretRef: {name: s}}]"), "secrets (environment"},
	} {
		if _, err := parse(test.data); err == nil || !strings.Contains(err.Error(), test.want) {
			t.Errorf("%s: got %v, want %q", name, err, test.want)
		}
	}
}

// folder is a Source and what it has said.
type folder struct {
	dir     string
	pods    chan []string
	refused map[string]string
}

func newFolder(t *testing.T) (*folder, *Source) {
	t.Helper()
	f := &folder{dir: filepath.Join(t.TempDir(), "manifests"), pods: make(chan []string, 100), refused: map[string]string{}}
	return f, New(Config{Dir: f.dir, Namespace: "edge", NodeName: "n", Pods: func(pods []*v1.Pod) {
		names := []string{}
		for _, p := range pods {
			names = append(names, p.Name)
		}
		f.pods <- names
	}, Refused: func(file string, err error) { f.refused[file] = err.Error() }})
}

func (f *folder) write(t *testing.T, file, data string) {
	t.Helper()
	if err := os.MkdirAll(f.dir, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(f.dir, file), []byte(data), 0o600); err != nil {
		t.Fatal(err)
	}
}

func named(name string) string {
	return "apiVersion: v1\nkind: Pod\nmetadata: {name: " + name + "}\nspec: {containers: [{name: c, image: i}]}\n"
}

// One bad file is told of, once, and keeps no other from being run.
func TestRead(t *testing.T) {
	f, source := newFolder(t)
	read := func() string {
		t.Helper()
		if err := source.Read(); err != nil {
			t.Fatal(err)
		}
		return fmt.Sprint(<-f.pods)
	}
	if got := read(); got != "[]" {
		t.Errorf("no folder: %s", got)
	}
	f.write(t, "b.yaml", named("b"))
	f.write(t, "a.json", named("a"))
	f.write(t, ".hidden", named("hidden"))
	f.write(t, "bad.yaml", "kind: [")
	f.write(t, "z.yaml", named("a"))
	f.write(t, "huge.yaml", named("huge")+strings.Repeat("#", staticpod.MaxSize))
	if err := os.Mkdir(filepath.Join(f.dir, "sub"), 0o755); err != nil {
		t.Fatal(err)
	}
	if got := read(); got != "[a-n b-n]" {
		t.Errorf("got %s", got)
	}
	if len(f.refused) != 3 || !strings.Contains(f.refused["z.yaml"], "a.json makes a pod of the same name") || !strings.Contains(f.refused["huge.yaml"], "larger than") || f.refused["bad.yaml"] == "" {
		t.Errorf("refused %v", f.refused)
	}
	clear(f.refused)
	if got := read(); got != "[a-n b-n]" || len(f.refused) != 0 {
		t.Errorf("again: %s, refused %v", got, f.refused)
	}
	if err := os.Remove(filepath.Join(f.dir, "b.yaml")); err != nil {
		t.Fatal(err)
	}
	if got := read(); got != "[a-n]" {
		t.Errorf("after the removal: %s", got)
	}
	for i := range staticpod.MaxPods {
		f.write(t, fmt.Sprintf("many-%03d", i), named(fmt.Sprintf("many-%d", i)))
	}
	if got := strings.Count(read(), "-n"); got < staticpod.MaxPods || got > 2*staticpod.MaxPods || len(f.refused) == 0 {
		t.Errorf("%d pods, refused %v", got, f.refused)
	}
	// What is not known is not taken for empty.
	if err := os.RemoveAll(f.dir); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(f.dir, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := source.Read(); err == nil {
		t.Error("a file in place of the folder was read as a folder")
	}
}

// run runs a Source until the end of the test. The result waits until it has told of these pods.
func (f *folder) run(t *testing.T, source *Source) (wait func(want string)) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() {
		defer close(done)
		source.Run(ctx)
	}()
	t.Cleanup(func() {
		cancel()
		<-done
	})
	return func(want string) {
		t.Helper()
		for deadline := time.After(60 * time.Second); ; {
			select {
			case got := <-f.pods:
				if fmt.Sprint(got) == want {
					return
				}
			case <-deadline:
				t.Fatalf("never %s", want)
			}
		}
	}
}

// The folder is watched: the period does not count.
func TestRun(t *testing.T) {
	f, source := newFolder(t)
	source.period = time.Hour
	f.write(t, "a.yaml", named("a"))
	wait := f.run(t, source)
	wait("[a-n]")
	f.write(t, "b.yaml", named("b"))
	wait("[a-n b-n]")
	if err := os.Remove(filepath.Join(f.dir, "a.yaml")); err != nil {
		t.Fatal(err)
	}
	wait("[b-n]")
}

// Until the folder is there it is looked for from time to time.
func TestRunBeforeFolder(t *testing.T) {
	f, source := newFolder(t)
	source.period = 100 * time.Millisecond
	wait := f.run(t, source)
	wait("[]")
	f.write(t, "a.yaml", named("a"))
	wait("[a-n]")
}

func FuzzParse(f *testing.F) {
	for _, seed := range []string{"", manifest, named("a"), `{"kind": "Pod"}`, "a: &a [*a, *a]", "apiVersion: v1\nkind: Pod\nmetadata: {name: x}\nspec: {containers: [{}], volumes: [{projected: {sources: [{}]}}]}"} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		pod, err := Parse(data, "file", "edge", "n")
		if err != nil {
			return
		}
		if pod.Namespace != "edge" || !strings.HasSuffix(pod.Name, "-n") || len(pod.Spec.Containers) == 0 || strings.Contains(pod.Name, "/") {
			t.Errorf("got %+v", pod)
		}
		if _, err := pod.Marshal(); err != nil {
			t.Error(err)
		}
	})
}
