package apiserver

import (
	"arhat.dev/aranya/pkg/kubelet"
)

// addKubelet sets up the kubelet endpoint. It knows callers in the same ways as the API does: by the
// cluster's client certificates and tokens.
func (s *Server) addKubelet(c CompletedConfig) (err error) {
	s.kubelet, err = kubelet.New(kubelet.Config{
		Listener:       s.config.KubeletListener,
		GetCertificate: s.config.KubeletCert.GetCertificate,
		Authenticator:  c.Generic.Authentication.Authenticator,
		Authorizer:     c.Generic.Authorization.Authorizer,
		Sessions:       s.gateway,
		Pods:           s.controllers.Pods(),
		PodsOnNode:     s.controllers.PodsOnNode,
		DeviceForNode:  s.controllers.DeviceForNode,
		LastSeen:       s.controllers.LastSeen,
		OnlyNode:       s.controllers.OnlyNode,
		Streaming:      s.streaming,
	})
	return err
}
