package edgedevice

import (
	"bytes"
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/apiserver/pkg/authorization/authorizerfactory"
	"k8s.io/apiserver/pkg/endpoints/openapi"
	"k8s.io/apiserver/pkg/registry/rest"
	genericapiserver "k8s.io/apiserver/pkg/server"
	"k8s.io/apiserver/pkg/util/compatibility"
	restclient "k8s.io/client-go/rest"

	"arhat.dev/aranya/pkg/apis/aranya"
	"arhat.dev/aranya/pkg/apis/aranya/scheme"
	"arhat.dev/aranya/pkg/apis/aranya/v1alpha1"
	applyv1alpha1 "arhat.dev/aranya/pkg/generated/applyconfiguration/aranya/v1alpha1"
	"arhat.dev/aranya/pkg/generated/clientset/versioned"
	typedv1alpha1 "arhat.dev/aranya/pkg/generated/clientset/versioned/typed/aranya/v1alpha1"
	generatedopenapi "arhat.dev/aranya/pkg/generated/openapi"
	"arhat.dev/aranya/pkg/registry/edgedevice/storagetest"
)

// newTestServer serves EdgeDevices over HTTP with the generic API server library, without
// authentication and open to all, and returns its URL.
func newTestServer(t *testing.T) string {
	t.Helper()
	codec, _, err := NewStorageCodec(runtime.ContentTypeProtobuf)
	if err != nil {
		t.Fatal(err)
	}
	storage, err := NewStorage(scheme.Scheme, storagetest.Options(t, codec))
	if err != nil {
		t.Fatal(err)
	}

	config := genericapiserver.NewRecommendedConfig(scheme.Codecs)
	config.ExternalAddress = "localhost:443"
	config.Authorization.Authorizer = authorizerfactory.NewAlwaysAllowAuthorizer()
	config.LoopbackClientConfig = &restclient.Config{}
	config.EffectiveVersion = compatibility.DefaultBuildEffectiveVersion()
	namer := openapi.NewDefinitionNamer(scheme.Scheme)
	config.OpenAPIConfig = genericapiserver.DefaultOpenAPIConfig(generatedopenapi.GetOpenAPIDefinitions, namer)
	config.OpenAPIConfig.Info.Title = "test"
	config.OpenAPIV3Config = genericapiserver.DefaultOpenAPIV3Config(generatedopenapi.GetOpenAPIDefinitions, namer)
	config.OpenAPIV3Config.Info.Title = "test"
	server, err := config.Complete().New("test", genericapiserver.NewEmptyDelegate())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(server.Destroy)
	group := genericapiserver.NewDefaultAPIGroupInfo(aranya.GroupName, scheme.Scheme, scheme.ParameterCodec, scheme.Codecs)
	group.VersionedResourcesStorageMap["v1alpha1"] = map[string]rest.Storage{
		"edgedevices":        storage.EdgeDevice,
		"edgedevices/status": storage.Status,
	}
	if err := server.InstallAPIGroup(&group); err != nil {
		t.Fatal(err)
	}
	server.PrepareRun()
	listener := httptest.NewServer(server.Handler)
	t.Cleanup(listener.Close)
	return listener.URL
}

func newTestClient(t *testing.T, url string) (*versioned.Clientset, typedv1alpha1.EdgeDeviceInterface) {
	t.Helper()
	clients, err := versioned.NewForConfig(&restclient.Config{Host: url, QPS: -1})
	if err != nil {
		t.Fatal(err)
	}
	return clients, clients.AranyaV1alpha1().EdgeDevices("edge")
}

// get reads a path of the server as JSON.
func get(t *testing.T, url, accept string, into any) {
	t.Helper()
	request, err := http.NewRequestWithContext(t.Context(), http.MethodGet, url, nil)
	if err != nil {
		t.Fatal(err)
	}
	request.Header.Set("Accept", accept)
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	if response.StatusCode != http.StatusOK {
		t.Fatalf("GET %s: %s", url, response.Status)
	}
	if err := json.NewDecoder(response.Body).Decode(into); err != nil {
		t.Fatal(err)
	}
}

// TestServer drives the resource as clients do. One server serves all parts, each of which has devices
// of its own.
func TestServer(t *testing.T) {
	url := newTestServer(t)
	clients, devices := newTestClient(t, url)
	t.Run("defaults and status", func(t *testing.T) { testDefaultsAndStatus(t, devices) })
	t.Run("strict decoding", func(t *testing.T) { testStrictDecoding(t, clients) })
	t.Run("invalid", func(t *testing.T) { testInvalid(t, devices) })
	t.Run("apply", func(t *testing.T) { testApply(t, devices) })
	t.Run("selectors and pages", func(t *testing.T) { testSelectorsAndPages(t, devices) })
	t.Run("table", func(t *testing.T) { testServedTable(t, url) })
	t.Run("formats", func(t *testing.T) { testFormats(t, url) })
	t.Run("format of the client", func(t *testing.T) { testClientFormat(t, url) })
	t.Run("discovery", func(t *testing.T) { testDiscovery(t, clients) })
	t.Run("explain", func(t *testing.T) { testExplain(t, url) })
}

func testDefaultsAndStatus(t *testing.T, devices typedv1alpha1.EdgeDeviceInterface) {
	created, err := devices.Create(t.Context(), &v1alpha1.EdgeDevice{ObjectMeta: metav1.ObjectMeta{GenerateName: "gate-"}}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if !strings.HasPrefix(created.Name, "gate-") || created.Spec.Connectivity.Method != v1alpha1.ConnectivityGRPC ||
		created.Status.Phase != v1alpha1.EdgeDevicePending || len(created.Status.Conditions) != 3 {
		t.Errorf("created device is %+v", created)
	}
	if !slices.Equal(created.Finalizers, []string{v1alpha1.FinalizerNode}) {
		t.Errorf("created device has the finalizers %v", created.Finalizers)
	}
	created.Status.Phase = v1alpha1.EdgeDeviceOffline
	created.Spec.Node.Disabled = true
	updated, err := devices.UpdateStatus(t.Context(), created, metav1.UpdateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if updated.Status.Phase != v1alpha1.EdgeDeviceOffline || updated.Spec.Node.Disabled {
		t.Errorf("after the update of the status: phase %s, node.disabled %t", updated.Status.Phase, updated.Spec.Node.Disabled)
	}
	updated.Finalizers = nil // as the controllers do
	if _, err := devices.Update(t.Context(), updated, metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
	if err := devices.Delete(t.Context(), created.Name, metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	if _, err := devices.Get(t.Context(), created.Name, metav1.GetOptions{}); !apierrors.IsNotFound(err) {
		t.Errorf("reading a deleted device returns %v", err)
	}
}

func testStrictDecoding(t *testing.T, clients *versioned.Clientset) {
	create := func(validation string) error {
		return clients.AranyaV1alpha1().RESTClient().Post().Namespace("edge").Resource("edgedevices").
			Param("fieldValidation", validation).
			Body([]byte(`{"apiVersion":"aranya.arhat.dev/v1alpha1","kind":"EdgeDevice","metadata":{"name":"strict"},`+
				`"spec":{"connectivity":{"metod":"grpc"}}}`)).
			SetHeader("Content-Type", "application/json").Do(t.Context()).Error()
	}
	if err := create("Strict"); !apierrors.IsBadRequest(err) || !strings.Contains(err.Error(), `unknown field "spec.connectivity.metod"`) {
		t.Errorf("an unknown field under strict validation returns %v", err)
	}
	if err := create("Ignore"); err != nil {
		t.Errorf("an unknown field that is to be ignored returns %v", err)
	}
}

func testInvalid(t *testing.T, devices typedv1alpha1.EdgeDeviceInterface) {
	device := &v1alpha1.EdgeDevice{ObjectMeta: metav1.ObjectMeta{Name: "invalid"}}
	device.Spec.Connectivity.Method = v1alpha1.ConnectivityMQTT
	_, err := devices.Create(t.Context(), device, metav1.CreateOptions{})
	if !apierrors.IsInvalid(err) || !strings.Contains(err.Error(), "spec.connectivity.mqttConfig: Required value") {
		t.Errorf("an invalid device returns %v", err)
	}
}

func testApply(t *testing.T, devices typedv1alpha1.EdgeDeviceInterface) {
	apply := func(manager string, capacity int32, force bool) (*v1alpha1.EdgeDevice, error) {
		config := applyv1alpha1.EdgeDevice("applied", "edge").
			WithSpec(applyv1alpha1.EdgeDeviceSpec().WithPod(applyv1alpha1.PodSpec().WithCapacity(capacity))).
			WithStatus(applyv1alpha1.EdgeDeviceStatus().WithAgentVersion("forged"))
		return devices.Apply(t.Context(), config, metav1.ApplyOptions{FieldManager: manager, Force: force})
	}
	device, err := apply("one", 10, false)
	if err != nil {
		t.Fatal(err)
	}
	if device.Status.AgentVersion != "" {
		t.Error("applying the main resource changed the status")
	}
	for _, entry := range device.ManagedFields {
		if strings.Contains(entry.FieldsV1.GetRawString(), "agentVersion") {
			t.Errorf("%s owns a field of the status", entry.Manager)
		}
	}
	if _, err := apply("two", 20, false); !apierrors.IsConflict(err) || !strings.Contains(err.Error(), ".spec.pod.capacity") {
		t.Errorf("a conflicting apply returns %v", err)
	}
	if device, err = apply("two", 20, true); err != nil || *device.Spec.Pod.Capacity != 20 {
		t.Errorf("a forced apply returns %v, %v", device, err)
	}

	status := applyv1alpha1.EdgeDevice("applied", "edge").
		WithSpec(applyv1alpha1.EdgeDeviceSpec().WithPod(applyv1alpha1.PodSpec().WithCapacity(30))).
		WithStatus(applyv1alpha1.EdgeDeviceStatus().WithAgentVersion("v1"))
	device, err = devices.ApplyStatus(t.Context(), status, metav1.ApplyOptions{FieldManager: "three"})
	if err != nil || device.Status.AgentVersion != "v1" || *device.Spec.Pod.Capacity != 20 {
		t.Errorf("applying the status returns %+v, %v", device, err)
	}

	// A list with keys merges by them.
	patch := []byte(`{"status":{"conditions":[{"type":"Connected","status":"True","reason":"LinkUp","message":"","lastTransitionTime":"2026-01-01T00:00:00Z"}]}}`)
	device, err = devices.Patch(t.Context(), "applied", types.StrategicMergePatchType, patch, metav1.PatchOptions{}, "status")
	if err != nil || len(device.Status.Conditions) != 3 || !meta.IsStatusConditionTrue(device.Status.Conditions, v1alpha1.EdgeDeviceConnected) {
		t.Errorf("a strategic merge patch of the status returns %v", err)
	}
}

func testSelectorsAndPages(t *testing.T, devices typedv1alpha1.EdgeDeviceInterface) {
	for _, name := range []string{"page-1", "page-2", "page-3"} {
		device := &v1alpha1.EdgeDevice{ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{"page": ""}}}
		device.Spec.Node.Disabled = true // without a Node there is no finalizer
		if _, err := devices.Create(t.Context(), device, metav1.CreateOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	list, err := devices.List(t.Context(), metav1.ListOptions{LabelSelector: "page", Limit: 2})
	if err != nil || len(list.Items) != 2 || list.Continue == "" {
		t.Fatalf("the first page: %d devices, %v", len(list.Items), err)
	}
	list, err = devices.List(t.Context(), metav1.ListOptions{LabelSelector: "page", Limit: 2, Continue: list.Continue})
	if err != nil || len(list.Items) != 1 || list.Continue != "" {
		t.Fatalf("the second page: %d devices, %v", len(list.Items), err)
	}
	list, err = devices.List(t.Context(), metav1.ListOptions{FieldSelector: "status.phase=Pending,metadata.name=page-2"})
	if err != nil || len(list.Items) != 1 {
		t.Errorf("a field selector finds %d devices, %v", len(list.Items), err)
	}
	_, err = devices.List(t.Context(), metav1.ListOptions{FieldSelector: "spec.host=x"})
	if !apierrors.IsBadRequest(err) || !strings.Contains(err.Error(), "status.agentVersion") {
		t.Errorf("an unknown field selector returns %v", err)
	}
	if err := devices.DeleteCollection(t.Context(), metav1.DeleteOptions{}, metav1.ListOptions{LabelSelector: "page"}); err != nil {
		t.Fatal(err)
	}
	if list, err = devices.List(t.Context(), metav1.ListOptions{LabelSelector: "page"}); err != nil || len(list.Items) != 0 {
		t.Errorf("%d devices are left, %v", len(list.Items), err)
	}
}

func testServedTable(t *testing.T, url string) {
	table := &metav1.Table{}
	get(t, url+"/apis/aranya.arhat.dev/v1alpha1/edgedevices", "application/json;as=Table;v=v1;g=meta.k8s.io", table)
	if len(table.ColumnDefinitions) != len(columns) || len(table.Rows) == 0 {
		t.Errorf("got a table of %d columns and %d rows", len(table.ColumnDefinitions), len(table.Rows))
	}
}

// testFormats asks as curl, kubectl and clients in Go do, and as the garbage collector and the namespace controller,
// which need metadata only.
func testFormats(t *testing.T, url string) {
	const json, protobuf, table = runtime.ContentTypeJSON, runtime.ContentTypeProtobuf, ";as=Table;v=v1;g=meta.k8s.io"
	for accept, want := range map[string]string{
		"*/*":                     json,
		json:                      json,
		protobuf:                  protobuf,
		protobuf + "," + json:     protobuf,
		json + table + "," + json: json,
		protobuf + ";as=PartialObjectMetadataList;g=meta.k8s.io;v=v1": protobuf,
	} {
		request, err := http.NewRequestWithContext(t.Context(), http.MethodGet, url+"/apis/aranya.arhat.dev/v1alpha1/edgedevices", nil)
		if err != nil {
			t.Fatal(err)
		}
		request.Header.Set("Accept", accept)
		response, err := http.DefaultClient.Do(request)
		if err != nil {
			t.Fatal(err)
		}
		body, err := io.ReadAll(response.Body)
		response.Body.Close()
		got := response.Header.Get("Content-Type")
		if err != nil || response.StatusCode != http.StatusOK || got != want || bytes.HasPrefix(body, []byte("k8s\x00")) != (want == protobuf) {
			t.Errorf("a request for %s is answered with %s in %s, want %s: %.60q", accept, response.Status, got, want, body)
		}
	}
}

// testClientFormat looks at what the generated client sends and is sent.
func testClientFormat(t *testing.T, url string) {
	var sent, received string
	config := &restclient.Config{Host: url, WrapTransport: func(next http.RoundTripper) http.RoundTripper {
		return roundTripper(func(r *http.Request) (*http.Response, error) {
			response, err := next.RoundTrip(r)
			if err == nil {
				sent, received = r.Header.Get("Content-Type"), response.Header.Get("Content-Type")
			}
			return response, err
		})
	}}
	clients, err := versioned.NewForConfig(config)
	if err != nil {
		t.Fatal(err)
	}
	ed := &v1alpha1.EdgeDevice{ObjectMeta: metav1.ObjectMeta{Name: "protobuf"}}
	if _, err := clients.AranyaV1alpha1().EdgeDevices("formats").Create(t.Context(), ed, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	if sent != runtime.ContentTypeProtobuf || received != runtime.ContentTypeProtobuf {
		t.Errorf("the client sent %s and received %s, want protobuf", sent, received)
	}
}

type roundTripper func(*http.Request) (*http.Response, error)

func (f roundTripper) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

func testDiscovery(t *testing.T, clients *versioned.Clientset) {
	list, err := clients.Discovery().ServerResourcesForGroupVersion("aranya.arhat.dev/v1alpha1")
	if err != nil {
		t.Fatal(err)
	}
	found := map[string]metav1.APIResource{}
	for _, resource := range list.APIResources {
		found[resource.Name] = resource
	}
	main := found["edgedevices"]
	want := metav1.APIResource{
		Name: "edgedevices", SingularName: "edgedevice", Namespaced: true, Kind: "EdgeDevice",
		ShortNames: []string{"ed"}, Categories: []string{"aranya"},
		Verbs:              main.Verbs,
		StorageVersionHash: main.StorageVersionHash,
	}
	if diff := cmp.Diff(want, main); diff != "" {
		t.Errorf("edgedevices is announced differently (-want +got):\n%s", diff)
	}
	verbs := sets.New[string](main.Verbs...)
	if want := sets.New("create", "delete", "deletecollection", "get", "list", "patch", "update", "watch"); !verbs.Equal(want) {
		t.Errorf("verbs of edgedevices are %v", main.Verbs)
	}
	verbs = sets.New[string](found["edgedevices/status"].Verbs...)
	if want := sets.New("get", "patch", "update"); !verbs.Equal(want) {
		t.Errorf("verbs of edgedevices/status are %v", verbs)
	}
}

// testExplain looks up what "kubectl explain ed.spec.connectivity" prints.
func testExplain(t *testing.T, url string) {
	type schema struct {
		Description string
		Default     any
		Enum        []string
		Ref         string `json:"$ref"`
		AllOf       []schema
		Properties  map[string]schema
	}
	var document struct {
		Components struct{ Schemas map[string]schema }
	}
	get(t, url+"/openapi/v3/apis/aranya.arhat.dev/v1alpha1", "application/json", &document)
	device, ok := document.Components.Schemas["dev.arhat.aranya.v1alpha1.EdgeDevice"]
	if !ok {
		t.Fatal("EdgeDevice has no schema")
	}
	current := device
	for _, field := range []string{"spec", "connectivity", "method"} {
		if len(current.AllOf) == 1 {
			current = document.Components.Schemas[strings.TrimPrefix(current.AllOf[0].Ref, "#/components/schemas/")]
		}
		if current, ok = current.Properties[field]; !ok {
			t.Fatalf("no field %s", field)
		}
		if current.Description == "" {
			t.Errorf("field %s has no description", field)
		}
	}
	if diff := cmp.Diff([]string{"grpc", "mqtt"}, current.Enum); diff != "" || current.Default != "grpc" {
		t.Errorf("method has default %v and choices %v", current.Default, current.Enum)
	}
}
