// Package artifacts tests the manifests in this directory: that they are what the API takes, and that
// they grant what the programs need and nothing else.
package artifacts

import (
	"bytes"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/spf13/pflag"
	admissionregistrationv1 "k8s.io/api/admissionregistration/v1"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/serializer"
	utilruntime "k8s.io/apimachinery/pkg/util/runtime"
	"k8s.io/apimachinery/pkg/util/yaml"
	"k8s.io/apiserver/pkg/apis/audit"
	auditv1 "k8s.io/apiserver/pkg/apis/audit/v1"
	"k8s.io/apiserver/pkg/audit/policy"
	"k8s.io/apiserver/pkg/authentication/serviceaccount"
	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/apiserver/pkg/authorization/authorizer"
	clientscheme "k8s.io/client-go/kubernetes/scheme"
	apiregistrationv1 "k8s.io/kube-aggregator/pkg/apis/apiregistration/v1"
	"sigs.k8s.io/kustomize/api/krusty"
	"sigs.k8s.io/kustomize/kyaml/filesys"

	"arhat.dev/aranya/pkg/apis/aranya/v1alpha1"
	"arhat.dev/aranya/pkg/apiserver"
)

var scheme = runtime.NewScheme()

func init() {
	utilruntime.Must(clientscheme.AddToScheme(scheme))
	utilruntime.Must(apiregistrationv1.AddToScheme(scheme))
	utilruntime.Must(v1alpha1.AddToScheme(scheme))
	utilruntime.Must(auditv1.AddToScheme(scheme))
}

// decode reads YAML documents as a strict API server does: unknown and repeated fields are errors.
func decode(t *testing.T, name string, data []byte) []runtime.Object {
	t.Helper()
	decoder := serializer.NewCodecFactory(scheme, serializer.EnableStrict).UniversalDeserializer()
	var objects []runtime.Object
	documents := yaml.NewDocumentDecoder(io.NopCloser(bytes.NewReader(data)))
	buffer := make([]byte, 1<<20)
	for {
		n, err := documents.Read(buffer)
		if errors.Is(err, io.EOF) {
			return objects
		}
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		object, _, err := decoder.Decode(buffer[:n], nil, nil)
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		objects = append(objects, object)
	}
}

// installed is what "kubectl apply -k artifacts/" applies.
func installed(t *testing.T) []runtime.Object {
	t.Helper()
	result, err := krusty.MakeKustomizer(krusty.MakeDefaultOptions()).Run(filesys.MakeFsOnDisk(), ".")
	if err != nil {
		t.Fatal(err)
	}
	data, err := result.AsYaml()
	if err != nil {
		t.Fatal(err)
	}
	return decode(t, "kustomization.yaml", data)
}

// get returns the one installed object of a type and name.
func get[T any](t *testing.T, name string) *T {
	t.Helper()
	for _, object := range installed(t) {
		if typed, ok := any(object).(*T); ok && nameOf(object) == name {
			return typed
		}
	}
	t.Fatalf("there is no %T %s", new(T), name)
	return nil
}

func nameOf(object runtime.Object) string {
	if named, ok := object.(interface{ GetName() string }); ok {
		return named.GetName()
	}
	return ""
}

func TestEveryFileIsInstalledOrASample(t *testing.T) {
	kustomization, err := os.ReadFile("kustomization.yaml")
	if err != nil {
		t.Fatal(err)
	}
	err = filepath.WalkDir(".", func(path string, entry fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if path == "arhat" { // what runs on devices
			return fs.SkipDir
		}
		if entry.IsDir() || filepath.Ext(path) != ".yaml" || path == "kustomization.yaml" {
			return nil
		}
		data, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		if objects := decode(t, path, data); len(objects) == 0 {
			t.Errorf("%s holds nothing", path)
		}
		if filepath.Dir(path) != "samples" && !strings.Contains(string(kustomization), "- "+path+"\n") {
			t.Errorf("%s is neither in kustomization.yaml nor a sample", path)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

// Kubernetes is not to restart aranya, which would cut all links, because etcd is away; it is to send it no requests
// meanwhile.
func TestProbes(t *testing.T) {
	c := get[appsv1.Deployment](t, "aranya-apiserver").Spec.Template.Spec.Containers[0]
	for name, tt := range map[string]struct {
		probe *corev1.Probe
		want  string
	}{
		"startup":   {c.StartupProbe, "/livez?exclude=etcd"},
		"liveness":  {c.LivenessProbe, "/livez?exclude=etcd"},
		"readiness": {c.ReadinessProbe, "/readyz"},
	} {
		if tt.probe == nil || tt.probe.HTTPGet == nil || tt.probe.HTTPGet.Path != tt.want {
			t.Errorf("the %s probe is %+v, want one of %s", name, tt.probe, tt.want)
		}
	}
}

func TestServicesLeadToTheDeployment(t *testing.T) {
	pod := get[appsv1.Deployment](t, "aranya-apiserver").Spec.Template
	ports := map[string]bool{}
	for _, p := range pod.Spec.Containers[0].Ports {
		ports[p.Name] = true
	}
	for _, name := range []string{"aranya-apiserver", "aranya-gateway"} {
		service := get[corev1.Service](t, name)
		if !labels.SelectorFromSet(service.Spec.Selector).Matches(labels.Set(pod.Labels)) {
			t.Errorf("Service %s does not select the pods", name)
		}
		for _, p := range service.Spec.Ports {
			if !ports[p.TargetPort.String()] {
				t.Errorf("Service %s: the pods have no port %s", name, p.TargetPort.String())
			}
		}
	}
}

// TestAPIServiceIsVerified would fail if the APIService could be served by anybody, or if applying
// the manifests again took away the caBundle that aranya filled in.
func TestAPIServiceIsVerified(t *testing.T) {
	service := get[apiregistrationv1.APIService](t, "v1alpha1.aranya.arhat.dev")
	if service.Spec.InsecureSkipTLSVerify || service.Spec.CABundle != nil {
		t.Errorf("insecureSkipTLSVerify and caBundle must not be set: %+v", service.Spec)
	}
	ref := service.Spec.Service
	backend := get[corev1.Service](t, ref.Name)
	if backend.Namespace != ref.Namespace || ref.Port == nil || backend.Spec.Ports[0].Port != *ref.Port {
		t.Errorf("the APIService refers to %+v, the Service is %s/%s with %+v", ref, backend.Namespace, backend.Name, backend.Spec.Ports)
	}
	if service.Spec.Group != v1alpha1.SchemeGroupVersion.Group || service.Spec.Version != v1alpha1.SchemeGroupVersion.Version {
		t.Errorf("the APIService is for %s/%s", service.Spec.Group, service.Spec.Version)
	}
}

func TestDeploymentNeedsNoPrivileges(t *testing.T) {
	deployment := get[appsv1.Deployment](t, "aranya-apiserver")
	if deployment.Spec.Strategy.Type != appsv1.RecreateDeploymentStrategyType || *deployment.Spec.Replicas != 1 {
		t.Error("two pods at a time would fight for the database")
	}
	pod := deployment.Spec.Template.Spec
	container := pod.Containers[0]
	security := container.SecurityContext
	switch {
	case pod.HostNetwork || pod.HostPID || pod.HostIPC:
		t.Error("uses namespaces of the host")
	case !*pod.SecurityContext.RunAsNonRoot || *pod.SecurityContext.RunAsUser == 0:
		t.Error("runs as root")
	case !*security.ReadOnlyRootFilesystem || *security.AllowPrivilegeEscalation:
		t.Error("could change its own file system or gain privileges")
	case !slices.Equal(security.Capabilities.Drop, []corev1.Capability{"ALL"}) || len(security.Capabilities.Add) > 0:
		t.Error("has capabilities")
	case container.ReadinessProbe == nil || container.LivenessProbe == nil || container.StartupProbe == nil:
		t.Error("is not probed")
	case container.Image != "arhat.dev/aranya-apiserver:dev":
		t.Errorf("image %q", container.Image)
	}
	if got := get[corev1.Namespace](t, deployment.Namespace).Labels["pod-security.kubernetes.io/enforce"]; got != "restricted" {
		t.Errorf("the namespace enforces the level %q", got)
	}
	if account := get[corev1.ServiceAccount](t, pod.ServiceAccountName); account.Namespace != deployment.Namespace {
		t.Errorf("the service account is in %s", account.Namespace)
	}
}

// TestDeploymentStartsTheProgram would fail if the program did not know the arguments.
func TestDeploymentStartsTheProgram(t *testing.T) {
	t.Setenv("POD_IP", "192.0.2.1")
	t.Setenv("POD_NAMESPACE", "aranya-system")
	container := get[appsv1.Deployment](t, "aranya-apiserver").Spec.Template.Spec.Containers[0]
	options := apiserver.NewOptions()
	flags := pflag.NewFlagSet("", pflag.ContinueOnError)
	for _, set := range options.Flags().FlagSets {
		flags.AddFlagSet(set)
	}
	if err := flags.Parse(container.Args); err != nil {
		t.Fatal(err)
	}
	if err := options.Complete(); err != nil {
		t.Fatal(err)
	}
	if err := options.Validate(); err != nil {
		t.Error(err)
	}
	ports := map[string]int32{}
	for _, p := range container.Ports {
		ports[p.Name] = p.ContainerPort
	}
	want := map[string]int32{"https": int32(options.Recommended.SecureServing.BindPort), "gateway": 7443, "kubelet": 10250}
	for name, port := range want {
		if ports[name] != port {
			t.Errorf("the container port %s is %d, the program listens on %d", name, ports[name], port)
		}
	}
	if !strings.HasSuffix(options.GatewayBindAddress, ":7443") || !strings.HasSuffix(options.KubeletBindAddress, ":10250") {
		t.Errorf("listens on %s and %s", options.GatewayBindAddress, options.KubeletBindAddress)
	}
}

// TestBindingsRefer would fail if a binding named another role or another account than the server's.
func TestBindingsRefer(t *testing.T) {
	elsewhere := []string{"system:auth-delegator", "extension-apiserver-authentication-reader"}
	roles := map[string]bool{}
	for _, object := range installed(t) {
		switch role := object.(type) {
		case *rbacv1.ClusterRole:
			roles["ClusterRole/"+role.Name] = true
		case *rbacv1.Role:
			roles["Role/"+role.Namespace+"/"+role.Name] = true
		}
	}
	check := func(name, key string, ref rbacv1.RoleRef, subjects []rbacv1.Subject) {
		if !roles[key] && !slices.Contains(elsewhere, ref.Name) {
			t.Errorf("%s refers to %s, which does not exist", name, key)
		}
		want := rbacv1.Subject{Kind: rbacv1.ServiceAccountKind, Name: "aranya-apiserver", Namespace: "aranya-system"}
		if len(subjects) != 1 || subjects[0] != want {
			t.Errorf("%s is for %v", name, subjects)
		}
	}
	for _, object := range installed(t) {
		switch binding := object.(type) {
		case *rbacv1.ClusterRoleBinding:
			check(binding.Name, "ClusterRole/"+binding.RoleRef.Name, binding.RoleRef, binding.Subjects)
		case *rbacv1.RoleBinding:
			check(binding.Name, "Role/"+binding.Namespace+"/"+binding.RoleRef.Name, binding.RoleRef, binding.Subjects)
		}
	}
}

// TestAuditSample would fail if another rule came before the one for tokens, or if the rules took from the policy that
// they are copied into what is not aranya's.
func TestAuditSample(t *testing.T) {
	loaded, err := policy.LoadPolicyFromFile("samples/audit-policy.yaml")
	if err != nil {
		t.Fatal(err)
	}
	const next = audit.LevelRequestResponse // of the rules that follow there
	loaded.Rules = append(loaded.Rules, audit.PolicyRule{Level: next})
	evaluator := policy.NewPolicyRuleEvaluator(loaded)
	for _, c := range []struct {
		user, verb, group, resource, subresource string
		want                                     audit.Level
	}{
		{"alice", "create", "aranya.arhat.dev", "edgedevices", "token", audit.LevelMetadata},
		{"alice", "create", "aranya.arhat.dev", "edgedevices", "exec", audit.LevelMetadata},
		{"alice", "get", "aranya.arhat.dev", "edgedevices", "log", audit.LevelMetadata},
		{"alice", "create", "aranya.arhat.dev", "edgedevices", "", audit.LevelRequest},
		{"alice", "list", "aranya.arhat.dev", "edgedevices", "", audit.LevelNone},
		{"alice", "get", "", "secrets", "", next},
		{"system:apiserver", "create", "rbac.authorization.k8s.io", "clusterroles", "", next},
	} {
		got := evaluator.EvaluatePolicyRule(&authorizer.AttributesRecord{
			User: &user.DefaultInfo{Name: c.user}, Verb: c.verb, ResourceRequest: true, APIGroup: c.group, APIVersion: "v1",
			Namespace: "edge", Resource: c.resource, Subresource: c.subresource, Name: "camera-1",
		})
		if got.Level != c.want {
			t.Errorf("%s by %s of %s/%s is recorded at level %s, want %s", c.verb, c.user, c.resource, c.subresource, got.Level, c.want)
		}
	}
}

func TestPoliciesAreBound(t *testing.T) {
	samples, err := filepath.Glob("samples/*-policy.yaml")
	if err != nil {
		t.Fatal(err)
	}
	samples = slices.DeleteFunc(samples, func(file string) bool { return file == "samples/audit-policy.yaml" })
	for _, file := range append(samples, "ready-nodes-policy.yaml") {
		data, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		objects := decode(t, file, data)
		if len(objects) != 2 {
			t.Fatalf("%s holds %d objects, want a policy and its binding", file, len(objects))
		}
		var bound string
		switch binding := objects[1].(type) {
		case *admissionregistrationv1.MutatingAdmissionPolicyBinding:
			bound = "MutatingAdmissionPolicy/" + binding.Spec.PolicyName
		case *admissionregistrationv1.ValidatingAdmissionPolicyBinding:
			bound = "ValidatingAdmissionPolicy/" + binding.Spec.PolicyName
		}
		if policy := objects[0].GetObjectKind().GroupVersionKind().Kind + "/" + nameOf(objects[0]); bound != policy {
			t.Errorf("%s: the policy is %s, and %q is bound", file, policy, bound)
		}
	}
}

// The policies know aranya by the service account that it runs as.
func TestPoliciesKnowAranya(t *testing.T) {
	pod := get[appsv1.Deployment](t, "aranya-apiserver")
	conditions := get[admissionregistrationv1.MutatingAdmissionPolicy](t, "aranya-ready-nodes").Spec.MatchConditions
	want := strconv.Quote(serviceaccount.MakeUsername(pod.Namespace, pod.Spec.Template.Spec.ServiceAccountName))
	if !slices.ContainsFunc(conditions, func(c admissionregistrationv1.MatchCondition) bool {
		return c.Expression == "request.userInfo.username == "+want
	}) {
		t.Errorf("no condition of the policy demands the user %s: %v", want, conditions)
	}
	pods, err := os.ReadFile("samples/pods-policy.yaml")
	if err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(string(pods), "request.userInfo.username != "+want) {
		t.Errorf("samples/pods-policy.yaml does not leave out the user %s", want)
	}
}
