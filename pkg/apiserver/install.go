package apiserver

import (
	"fmt"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apiserver/pkg/registry/rest"
	genericapiserver "k8s.io/apiserver/pkg/server"

	"arhat.dev/aranya/pkg/apis/aranya"
	"arhat.dev/aranya/pkg/apis/aranya/scheme"
	"arhat.dev/aranya/pkg/apis/aranya/v1alpha1"
	"arhat.dev/aranya/pkg/controller/events"
	"arhat.dev/aranya/pkg/registry/edgedevice"
)

// installAPI serves the API group.
func (s *Server) installAPI(c CompletedConfig, devices *edgedevice.Storage) error {
	devices.EdgeDevice.SetLiveStatus(newLiveStatus(s.gateway, s.controllers.LastSeen))
	// With metav1.ParameterCodec the options of connect requests would be unknown.
	group := genericapiserver.NewDefaultAPIGroupInfo(aranya.GroupName, scheme.Scheme, scheme.ParameterCodec, scheme.Codecs)
	group.VersionedResourcesStorageMap[v1alpha1.SchemeGroupVersion.Version] = s.resources(c, devices)
	if err := s.Generic.InstallAPIGroup(&group); err != nil {
		return fmt.Errorf("install the API %s: %w", v1alpha1.SchemeGroupVersion, err)
	}
	return nil
}

// resources returns all resources and subresources.
func (s *Server) resources(c CompletedConfig, devices *edgedevice.Storage) map[string]rest.Storage {
	connector := &edgedevice.Connector{
		Devices:       devices.EdgeDevice,
		Sessions:      s.gateway,
		Pods:          s.controllers.Pods(),
		DeviceForNode: s.controllers.DeviceForNode,
		LastSeen:      s.controllers.LastSeen,
		Authorizer:    c.Generic.Authorization.Authorizer,
		Streaming:     s.streaming,
	}
	recorder := s.events.NewRecorder(scheme.Scheme, corev1.EventSource{Component: events.Component})
	var gatewayAddress string
	if len(c.Extra.GatewayAddresses) > 0 {
		gatewayAddress = c.Extra.GatewayAddresses[0]
	}
	return map[string]rest.Storage{
		"edgedevices":             devices.EdgeDevice,
		"edgedevices/status":      devices.Status,
		"edgedevices/exec":        edgedevice.NewExecREST(connector),
		"edgedevices/attach":      edgedevice.NewAttachREST(connector),
		"edgedevices/log":         edgedevice.NewLogREST(connector),
		"edgedevices/portforward": edgedevice.NewPortForwardREST(connector),
		"edgedevices/proxy":       edgedevice.NewProxyREST(connector),
		"edgedevices/token":       edgedevice.NewTokenREST(devices.EdgeDevice.Recent(), s.gateway, gatewayAddress, recorder),
	}
}
