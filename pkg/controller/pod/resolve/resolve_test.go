package resolve

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	nodev1 "k8s.io/api/node/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	corelisters "k8s.io/client-go/listers/core/v1"
	nodelisters "k8s.io/client-go/listers/node/v1"
	"k8s.io/client-go/tools/cache"
	"k8s.io/utils/ptr"
)

// known is a set of objects; names in pending are still being looked up.
type known struct {
	configMaps map[string]*corev1.ConfigMap
	secrets    map[string]*corev1.Secret
	pending    string
}

func (k known) ConfigMap(_, name string) (*corev1.ConfigMap, error) {
	if name == k.pending {
		return nil, ErrPending
	}
	if o := k.configMaps[name]; o != nil {
		return o, nil
	}
	return nil, apierrors.NewNotFound(corev1.Resource("configmap"), name)
}

func (k known) Secret(_, name string) (*corev1.Secret, error) {
	if name == k.pending {
		return nil, ErrPending
	}
	if o := k.secrets[name]; o != nil {
		return o, nil
	}
	return nil, apierrors.NewNotFound(corev1.Resource("secret"), name)
}

type tokens struct {
	token   string
	refresh time.Time
	err     error
}

func (t tokens) Token(context.Context, *corev1.Pod, *corev1.ServiceAccountTokenProjection) (string, time.Time, error) {
	return t.token, t.refresh, t.err
}

var objects = known{
	configMaps: map[string]*corev1.ConfigMap{
		"cm":  {Data: map[string]string{"a": "1", "cost": "$5 $(A)"}, BinaryData: map[string][]byte{"bin": {0, 1}}},
		"cm2": {Data: map[string]string{"a": "2"}},
	},
	secrets: map[string]*corev1.Secret{
		"s": {Data: map[string][]byte{"password": []byte("x$y")}},
		"pull": {ObjectMeta: metav1.ObjectMeta{UID: "pull-uid"}, Type: corev1.SecretTypeDockerConfigJson, Data: map[string][]byte{
			corev1.DockerConfigJsonKey: []byte(`{"auths":{"b.example":{"auth":"dXNlcjpwYXNz"},"a.example":{"username":"u","password":"p","identitytoken":"i","registrytoken":"r"}}}`),
		}},
		"old":    {ObjectMeta: metav1.ObjectMeta{UID: "old-uid"}, Type: corev1.SecretTypeDockercfg, Data: map[string][]byte{corev1.DockerConfigKey: []byte(`{"c.example":{"auth":"dXNlcjpwYXNzOndvcmQ"}}`)}},
		"broken": {Type: corev1.SecretTypeDockerConfigJson, Data: map[string][]byte{corev1.DockerConfigJsonKey: []byte(`{"auths":"topsecret"`)}},
	},
}

// trust has bundles of any name but "no".
type trust struct{}

func (trust) Anchors(source *corev1.ClusterTrustBundleProjection) ([]byte, error) {
	if *source.Name == "no" {
		return nil, errors.New("no bundle no")
	}
	return []byte("anchors of " + *source.Name), nil
}

func resolver(services ...*corev1.Service) *Resolver {
	indexer := cache.NewIndexer(cache.MetaNamespaceKeyFunc, cache.Indexers{cache.NamespaceIndex: cache.MetaNamespaceIndexFunc})
	for _, s := range services {
		if err := indexer.Add(s); err != nil {
			panic(err)
		}
	}
	classes := cache.NewIndexer(cache.MetaNamespaceKeyFunc, nil)
	if err := classes.Add(&nodev1.RuntimeClass{ObjectMeta: metav1.ObjectMeta{Name: "sandboxed"}, Handler: "runsc"}); err != nil {
		panic(err)
	}
	return &Resolver{Bundles: trust{}, Objects: objects, Tokens: tokens{token: "t1", refresh: time.Unix(1000, 0)},
		Services: corelisters.NewServiceLister(indexer), RuntimeClasses: nodelisters.NewRuntimeClassLister(classes)}
}

func pod(change ...func(*corev1.Pod)) *corev1.Pod {
	p := &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "p", UID: "u", ResourceVersion: "7", Labels: map[string]string{"x": "1", "y": "2"}},
		Spec:       corev1.PodSpec{EnableServiceLinks: ptr.To(false), ServiceAccountName: "sa", Containers: []corev1.Container{{Name: "main"}}},
	}
	for _, f := range change {
		f(p)
	}
	return p
}

func sentPod(t *testing.T, r *Result) *corev1.Pod {
	t.Helper()
	var p corev1.Pod
	if err := p.Unmarshal(r.Message.Pod); err != nil {
		t.Fatal(err)
	}
	return &p
}

func configMapKey(name, key string, optional bool) *corev1.EnvVarSource {
	return &corev1.EnvVarSource{ConfigMapKeyRef: &corev1.ConfigMapKeySelector{
		LocalObjectReference: corev1.LocalObjectReference{Name: name}, Key: key, Optional: &optional,
	}}
}

func secretKey(name, key string, optional bool) *corev1.EnvVarSource {
	return &corev1.EnvVarSource{SecretKeyRef: &corev1.SecretKeySelector{
		LocalObjectReference: corev1.LocalObjectReference{Name: name}, Key: key, Optional: &optional,
	}}
}

func fromConfigMap(prefix, name string, optional bool) corev1.EnvFromSource {
	return corev1.EnvFromSource{Prefix: prefix, ConfigMapRef: &corev1.ConfigMapEnvSource{
		LocalObjectReference: corev1.LocalObjectReference{Name: name}, Optional: &optional,
	}}
}

func fromSecret(prefix, name string, optional bool) corev1.EnvFromSource {
	return corev1.EnvFromSource{Prefix: prefix, SecretRef: &corev1.SecretEnvSource{
		LocalObjectReference: corev1.LocalObjectReference{Name: name}, Optional: &optional,
	}}
}

func TestEnv(t *testing.T) {
	field := corev1.EnvVar{Name: "IP", ValueFrom: &corev1.EnvVarSource{FieldRef: &corev1.ObjectFieldSelector{FieldPath: "status.podIP"}}}
	limit := corev1.EnvVar{Name: "L", ValueFrom: &corev1.EnvVarSource{ResourceFieldRef: &corev1.ResourceFieldSelector{Resource: "limits.cpu"}}}
	for name, tt := range map[string]struct {
		env     []corev1.EnvVar
		from    []corev1.EnvFromSource
		want    []corev1.EnvVar
		missing string
	}{
		"nothing":                 {},
		"plain stays":             {env: []corev1.EnvVar{{Name: "A", Value: "$(B)"}}, want: []corev1.EnvVar{{Name: "A", Value: "$(B)"}}},
		"device's own stay":       {env: []corev1.EnvVar{field, limit}, want: []corev1.EnvVar{field, limit}},
		"config map key, literal": {env: []corev1.EnvVar{{Name: "A", ValueFrom: configMapKey("cm", "cost", false)}}, want: []corev1.EnvVar{{Name: "A", Value: "$$5 $$(A)"}}},
		"secret key, literal":     {env: []corev1.EnvVar{{Name: "A", ValueFrom: secretKey("s", "password", false)}}, want: []corev1.EnvVar{{Name: "A", Value: "x$$y"}}},
		"missing config map":      {env: []corev1.EnvVar{{Name: "A", ValueFrom: configMapKey("no", "a", false)}}, missing: `configmap "no" not found`},
		"missing secret":          {env: []corev1.EnvVar{{Name: "A", ValueFrom: secretKey("no", "a", false)}}, missing: `secret "no" not found`},
		"missing key":             {env: []corev1.EnvVar{{Name: "A", ValueFrom: configMapKey("cm", "no", false)}}, missing: "couldn't find key no in ConfigMap ns/cm"},
		"missing secret key":      {env: []corev1.EnvVar{{Name: "A", ValueFrom: secretKey("s", "no", false)}}, missing: "couldn't find key no in Secret ns/s"},
		"optional config map":     {env: []corev1.EnvVar{{Name: "A", ValueFrom: configMapKey("no", "a", true)}, {Name: "B", Value: "b"}}, want: []corev1.EnvVar{{Name: "B", Value: "b"}}},
		"optional key":            {env: []corev1.EnvVar{{Name: "A", ValueFrom: configMapKey("cm", "no", true)}}},
		"optional secret":         {env: []corev1.EnvVar{{Name: "A", ValueFrom: secretKey("no", "a", true)}}},
		"optional secret key":     {env: []corev1.EnvVar{{Name: "A", ValueFrom: secretKey("s", "no", true)}}},
		"envFrom, later wins": {
			from: []corev1.EnvFromSource{fromConfigMap("", "cm", false), fromConfigMap("", "cm2", false)},
			want: []corev1.EnvVar{{Name: "a", Value: "2"}, {Name: "cost", Value: "$$5 $$(A)"}},
		},
		"envFrom with prefix, env comes later": {
			env: []corev1.EnvVar{{Name: "P_password", Value: "mine"}}, from: []corev1.EnvFromSource{fromSecret("P_", "s", false)},
			want: []corev1.EnvVar{{Name: "P_password", Value: "x$$y"}, {Name: "P_password", Value: "mine"}},
		},
		"envFrom missing":  {from: []corev1.EnvFromSource{fromSecret("", "no", false)}, missing: `secret "no" not found`},
		"envFrom optional": {from: []corev1.EnvFromSource{fromSecret("", "no", true), fromConfigMap("", "no", true)}},
	} {
		t.Run(name, func(t *testing.T) {
			result, err := resolver().Pod(context.Background(), pod(func(p *corev1.Pod) {
				p.Spec.Containers[0].Env, p.Spec.Containers[0].EnvFrom = tt.env, tt.from
				p.Spec.InitContainers = []corev1.Container{{Name: "init", Env: tt.env, EnvFrom: tt.from}}
			}))
			if tt.missing != "" {
				var missing *Unresolved
				if !errors.As(err, &missing) || missing.Containers["main"] != tt.missing || missing.Containers["init"] != tt.missing || missing.Pending {
					t.Fatalf("error: %#v", err)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			sent := sentPod(t, result)
			for _, c := range []corev1.Container{sent.Spec.Containers[0], sent.Spec.InitContainers[0]} {
				if diff := cmp.Diff(tt.want, c.Env); diff != "" || len(c.EnvFrom) > 0 {
					t.Errorf("env of %s: %s", c.Name, diff)
				}
			}
		})
	}
}

func TestServiceEnv(t *testing.T) {
	service := func(namespace, name, ip string, ports ...corev1.ServicePort) *corev1.Service {
		return &corev1.Service{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: name}, Spec: corev1.ServiceSpec{ClusterIP: ip, Ports: ports}}
	}
	r := resolver(
		service("default", "kubernetes", "10.0.0.1", corev1.ServicePort{Name: "https", Port: 443, Protocol: corev1.ProtocolTCP}),
		service("default", "other", "10.0.0.2", corev1.ServicePort{Port: 1}),
		service("ns", "my-db", "fd00::5", corev1.ServicePort{Port: 5432}),
		service("ns", "headless", "None", corev1.ServicePort{Port: 1}),
		service("ns", "kubernetes", "None", corev1.ServicePort{Port: 1}),
	)
	env := func(links bool) map[string]string {
		result, err := r.Pod(context.Background(), pod(func(p *corev1.Pod) {
			p.Spec.EnableServiceLinks = &links
			p.Spec.Containers[0].Env = []corev1.EnvVar{{Name: "MY_DB_PORT", Value: "mine"}}
		}))
		if err != nil {
			t.Fatal(err)
		}
		m := map[string]string{}
		for _, e := range sentPod(t, result).Spec.Containers[0].Env {
			if _, twice := m[e.Name]; twice {
				t.Errorf("%s is there twice", e.Name)
			}
			m[e.Name] = e.Value
		}
		return m
	}
	master := map[string]string{
		"KUBERNETES_SERVICE_HOST": "10.0.0.1", "KUBERNETES_SERVICE_PORT": "443", "KUBERNETES_SERVICE_PORT_HTTPS": "443",
		"KUBERNETES_PORT": "tcp://10.0.0.1:443", "KUBERNETES_PORT_443_TCP": "tcp://10.0.0.1:443", "KUBERNETES_PORT_443_TCP_PROTO": "tcp",
		"KUBERNETES_PORT_443_TCP_PORT": "443", "KUBERNETES_PORT_443_TCP_ADDR": "10.0.0.1", "MY_DB_PORT": "mine",
	}
	if diff := cmp.Diff(master, env(false)); diff != "" {
		t.Error(diff)
	}
	for k, v := range map[string]string{
		"MY_DB_SERVICE_HOST": "fd00::5", "MY_DB_SERVICE_PORT": "5432", "MY_DB_PORT_5432_TCP": "tcp://[fd00::5]:5432",
		"MY_DB_PORT_5432_TCP_PROTO": "tcp", "MY_DB_PORT_5432_TCP_PORT": "5432", "MY_DB_PORT_5432_TCP_ADDR": "fd00::5",
	} {
		master[k] = v
	}
	if diff := cmp.Diff(master, env(true)); diff != "" {
		t.Error(diff)
	}
}

func TestPending(t *testing.T) {
	r := resolver()
	for name, p := range map[string]*corev1.Pod{
		"env": pod(func(p *corev1.Pod) {
			p.Spec.Containers[0].Env = []corev1.EnvVar{{Name: "A", ValueFrom: configMapKey("slow", "a", true)}}
		}),
		"volume": volumePod(corev1.VolumeSource{Secret: &corev1.SecretVolumeSource{SecretName: "slow"}}),
		"pull":   pod(func(p *corev1.Pod) { p.Spec.ImagePullSecrets = []corev1.LocalObjectReference{{Name: "slow"}} }),
	} {
		r.Objects = known{pending: "slow"}
		_, err := r.Pod(context.Background(), p)
		var missing *Unresolved
		if !errors.As(err, &missing) || !missing.Pending || len(missing.Containers)+len(missing.Volumes) > 0 {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestTokenFailureIsNoFaultOfThePod(t *testing.T) {
	r := resolver()
	r.Tokens = tokens{err: errors.New("no route")}
	_, err := r.Pod(context.Background(), volumePod(corev1.VolumeSource{Projected: &corev1.ProjectedVolumeSource{
		Sources: []corev1.VolumeProjection{{ServiceAccountToken: &corev1.ServiceAccountTokenProjection{Path: "token"}}},
	}}))
	var missing *Unresolved
	if err == nil || errors.As(err, &missing) || !strings.Contains(err.Error(), "no route") {
		t.Errorf("error: %v", err)
	}
}

func TestPullSecrets(t *testing.T) {
	result, err := resolver().Pod(context.Background(), pod(func(p *corev1.Pod) {
		p.Spec.ImagePullSecrets = []corev1.LocalObjectReference{{Name: "pull"}, {Name: "old"}, {Name: "broken"}, {Name: "no"}, {Name: "s"}}
	}))
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, c := range result.Message.RegistryCredentials {
		got = append(got, strings.Join([]string{c.Registry, c.Username, c.Password, c.IdentityToken, c.RegistryToken}, " "))
		if c.SecretUid != "pull-uid" && c.SecretUid != "old-uid" {
			t.Errorf("the credential for %s is from Secret %q", c.Registry, c.SecretUid)
		}
	}
	want := []string{"a.example u p i r", "b.example user pass  ", "c.example user pass:word  "}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	var reasons []string
	for _, w := range result.Warnings {
		reasons = append(reasons, w.Reason)
		if strings.Contains(w.Message, "topsecret") {
			t.Errorf("a warning quotes a Secret: %s", w.Message)
		}
	}
	if diff := cmp.Diff([]string{"InvalidImagePullSecret", "InvalidImagePullSecret", "FailedToRetrieveImagePullSecret"}, reasons); diff != "" {
		t.Error(diff)
	}
}

func TestRuntimeClass(t *testing.T) {
	class := func(name string) func(*corev1.Pod) {
		return func(p *corev1.Pod) { p.Spec.RuntimeClassName = &name }
	}
	result, err := resolver().Pod(context.Background(), pod(class("sandboxed")))
	if err != nil {
		t.Fatal(err)
	}
	if got := sentPod(t, result).Spec.RuntimeClassName; got == nil || *got != "runsc" {
		t.Errorf("the device is told %v, want the handler", ptr.Deref(got, "nothing"))
	}
	var missing *Unresolved
	_, err = resolver().Pod(context.Background(), pod(class("other")))
	if !errors.As(err, &missing) || missing.Sandbox == nil || missing.OnlyPending() || !strings.Contains(err.Error(), `"other" not found`) {
		t.Errorf("got %v", err)
	}
}

// What a device keeps the handler of is told apart from any other, so that it is sent again when there is a RuntimeClass.
func TestKeptRuntimeHandler(t *testing.T) {
	digests := map[string]string{}
	for name, want := range map[string]string{"sandboxed": "runsc", "gone": ""} {
		result, err := resolver().KeptPod(context.Background(), pod(func(p *corev1.Pod) { p.Spec.RuntimeClassName = &name }))
		if err != nil {
			t.Fatal(err)
		}
		if got := sentPod(t, result).Spec.RuntimeClassName; got == nil || *got != want || result.KeepsHandler != (want == "") {
			t.Errorf("of the class %s the device is told %q, that it keeps its own: %t", name, ptr.Deref(got, "nothing"), result.KeepsHandler)
		}
		digests[result.Message.Digest] = name
	}
	if len(digests) != 2 {
		t.Error("the digests are the same")
	}
}

// What is told of a pod is one event that happens again only if it always reads the same.
func TestUnresolvedNamesTheSameContainer(t *testing.T) {
	missing := &Unresolved{Containers: map[string]string{"b": "lacks b", "a": "lacks a", "c": "lacks c"}}
	for range 50 {
		if got, want := missing.Error(), `container "a": lacks a`; got != want {
			t.Fatalf("%s, want %s", got, want)
		}
	}
}
