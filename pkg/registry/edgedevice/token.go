package edgedevice

import (
	"context"
	"fmt"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/validation/field"
	genericapirequest "k8s.io/apiserver/pkg/endpoints/request"
	"k8s.io/apiserver/pkg/registry/rest"
	"k8s.io/apiserver/pkg/util/dryrun"
	"k8s.io/client-go/tools/record"

	"arhat.dev/aranya/pkg/apis/aranya"
	"arhat.dev/aranya/pkg/apis/aranya/v1alpha1"
	"arhat.dev/aranya/pkg/apis/aranya/validation"
	"arhat.dev/aranya/pkg/edge/gateway"
)

// TokenIssuer makes enrolment tokens. The gateway is one.
type TokenIssuer interface {
	IssueToken(ctx context.Context, device gateway.Device, ttl time.Duration) (token string, expires time.Time, err error)
}

// TokenREST is the subresource edgedevices/token: create issues a one-time enrolment token. The token
// is in the response and nowhere else; an audit policy must not record the responses of this
// subresource (level Metadata is right for it).
type TokenREST struct {
	devices  rest.Getter
	issuer   TokenIssuer
	server   string
	recorder record.EventRecorder
}

var _ rest.NamedCreater = &TokenREST{}

// NewTokenREST returns the storage of edgedevices/token. server is the gateway's address, which
// devices without a broker are told to dial. Issued tokens are recorded as events on the EdgeDevice.
func NewTokenREST(devices rest.Getter, issuer TokenIssuer, server string, recorder record.EventRecorder) *TokenREST {
	return &TokenREST{devices: devices, issuer: issuer, server: server, recorder: recorder}
}

// New returns an empty EnrollmentToken.
func (*TokenREST) New() runtime.Object { return &aranya.EnrollmentToken{} }

// Destroy does nothing: what the subresources share is not theirs.
func (*TokenREST) Destroy() {}

// Create issues a token for the EdgeDevice of that name.
func (r *TokenREST) Create(ctx context.Context, name string, obj runtime.Object, validate rest.ValidateObjectFunc, options *metav1.CreateOptions) (runtime.Object, error) {
	request, ok := obj.(*aranya.EnrollmentToken)
	if !ok {
		return nil, apierrors.NewBadRequest(fmt.Sprintf("not an EnrollmentToken: %T", obj))
	}
	namespace := genericapirequest.NamespaceValue(ctx)
	if errs := append(validateTokenMetadata(request, namespace, name), validation.ValidateEnrollmentToken(request)...); len(errs) > 0 {
		return nil, apierrors.NewInvalid(aranya.Kind("EnrollmentToken"), name, errs)
	}
	found, err := r.devices.Get(ctx, name, &metav1.GetOptions{})
	if err != nil {
		return nil, err
	}
	device, ok := found.(*aranya.EdgeDevice)
	if !ok {
		return nil, apierrors.NewInternalError(fmt.Errorf("unexpected object %T in the storage of edgedevices", found))
	}
	if device.DeletionTimestamp != nil {
		return nil, apierrors.NewConflict(aranya.Resource("edgedevices"), name, fmt.Errorf("the EdgeDevice is being deleted"))
	}
	response := &aranya.EnrollmentToken{
		ObjectMeta: metav1.ObjectMeta{Namespace: device.Namespace, Name: device.Name},
		Spec:       *request.Spec.DeepCopy(),
	}
	if validate != nil {
		if err := validate(ctx, response.DeepCopyObject()); err != nil {
			return nil, err
		}
	}
	if dryrun.IsDryRun(options.DryRun) {
		return response, nil
	}
	ttl := time.Duration(*request.Spec.ExpirationSeconds) * time.Second
	token, expires, err := r.issuer.IssueToken(ctx, gateway.Device{Namespace: device.Namespace, Name: device.Name, UID: device.UID}, ttl)
	if err != nil {
		return nil, apierrors.NewInternalError(fmt.Errorf("issue an enrolment token: %w", err))
	}
	response.CreationTimestamp = metav1.Now()
	response.Status = aranya.EnrollmentTokenStatus{Token: token, ExpirationTimestamp: metav1.NewTime(expires), Server: serverOf(device, r.server)}
	r.record(ctx, device, expires)
	return response, nil
}

// serverOf is where a device is told to go: to its broker if it has one, else to the gateway.
func serverOf(device *aranya.EdgeDevice, gateway string) string {
	config := device.Spec.Connectivity.MQTTConfig
	if device.Spec.Connectivity.Method != aranya.ConnectivityMQTT || config == nil {
		return gateway
	}
	scheme := "mqtt"
	switch {
	case config.Transport == aranya.MQTTTransportWebSocket && config.TLSSecretRef != nil:
		scheme = "mqtt+wss"
	case config.Transport == aranya.MQTTTransportWebSocket:
		scheme = "mqtt+ws"
	case config.TLSSecretRef != nil:
		scheme = "mqtts"
	}
	return scheme + "://" + config.Server
}

func (r *TokenREST) record(ctx context.Context, device *aranya.EdgeDevice, expires time.Time) {
	who := "somebody"
	if u, ok := genericapirequest.UserFrom(ctx); ok {
		who = u.GetName()
	}
	r.recorder.Eventf(&corev1.ObjectReference{
		APIVersion: v1alpha1.SchemeGroupVersion.String(), Kind: "EdgeDevice",
		Namespace: device.Namespace, Name: device.Name, UID: device.UID,
	}, corev1.EventTypeNormal, "TokenIssued", "Enrolment token issued to %s, valid until %s", who, expires.UTC().Format(time.RFC3339))
}

// validateTokenMetadata checks that the body speaks of the EdgeDevice in the URL, if it names one.
func validateTokenMetadata(token *aranya.EnrollmentToken, namespace, name string) field.ErrorList {
	var errs field.ErrorList
	metadata := field.NewPath("metadata")
	if token.Name != "" && token.Name != name {
		errs = append(errs, field.Invalid(metadata.Child("name"), token.Name, "must match the name of the EdgeDevice if specified"))
	}
	if token.Namespace != "" && token.Namespace != namespace {
		errs = append(errs, field.Invalid(metadata.Child("namespace"), token.Namespace, "must match the namespace of the EdgeDevice if specified"))
	}
	return errs
}
