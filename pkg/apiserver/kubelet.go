package apiserver

// addKubelet sets up the kubelet endpoint.
func (s *Server) addKubelet(CompletedConfig) error {
	return nil
}
