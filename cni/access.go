package cni

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"time"

	corev1 "k8s.io/api/core/v1"
)

// Access is how to ask an API server. Its file is a kubeconfig, in JSON; it
// holds a secret.
type Access struct {
	Server string // https://HOST:PORT
	CA     []byte // PEM
	Token  string
}

type kubeconfig struct {
	APIVersion string         `json:"apiVersion"`
	Kind       string         `json:"kind"`
	Clusters   []namedCluster `json:"clusters"`
	Users      []namedUser    `json:"users"`
	Contexts   []namedContext `json:"contexts"`
	Current    string         `json:"current-context"`
}

type namedCluster struct {
	Name    string `json:"name"`
	Cluster struct {
		Server string `json:"server"`
		CA     []byte `json:"certificate-authority-data"`
	} `json:"cluster"`
}

type namedUser struct {
	Name string `json:"name"`
	User struct {
		Token string `json:"token"`
	} `json:"user"`
}

type namedContext struct {
	Name    string `json:"name"`
	Context struct {
		Cluster string `json:"cluster"`
		User    string `json:"user"`
	} `json:"context"`
}

// Kubeconfig is the file's text.
func (a Access) Kubeconfig() ([]byte, error) {
	k := kubeconfig{APIVersion: "v1", Kind: "Config", Current: Name,
		Clusters: make([]namedCluster, 1), Users: make([]namedUser, 1), Contexts: make([]namedContext, 1)}
	k.Clusters[0].Name, k.Users[0].Name, k.Contexts[0].Name = Name, Name, Name
	k.Clusters[0].Cluster.Server, k.Clusters[0].Cluster.CA = a.Server, a.CA
	k.Users[0].User.Token = a.Token
	k.Contexts[0].Context.Cluster, k.Contexts[0].Context.User = Name, Name
	return json.MarshalIndent(k, "", "  ")
}

// ParseKubeconfig reads what Kubeconfig writes. Errors hold nothing of the text.
func ParseKubeconfig(text []byte) (Access, error) {
	var k kubeconfig
	if err := json.Unmarshal(text, &k); err != nil {
		return Access{}, errors.New("kubeconfig: not the JSON that seine-cni writes")
	}
	if len(k.Clusters) != 1 || len(k.Users) != 1 {
		return Access{}, errors.New("kubeconfig: not one cluster and one user")
	}
	a := Access{k.Clusters[0].Cluster.Server, k.Clusters[0].Cluster.CA, k.Users[0].User.Token}
	if u, err := url.Parse(a.Server); err != nil || u.Scheme != "https" || u.Host == "" {
		return Access{}, errors.New("kubeconfig: the server is not https://HOST:PORT")
	}
	if len(a.CA) == 0 || a.Token == "" {
		return Access{}, errors.New("kubeconfig: no certificate authority or no token")
	}
	return a, nil
}

const (
	askTimeout = 10 * time.Second
	// maxPod is more than etcd stores of one object, 1.5 MiB.
	maxPod = 8 << 20
)

// Pod asks the API server for a pod, once. The caller's caller asks again: the
// kubelet makes a sandbox anew, later and later.
func (a Access) Pod(ctx context.Context, namespace, name string) (*corev1.Pod, error) {
	roots := x509.NewCertPool()
	if !roots.AppendCertsFromPEM(a.CA) {
		return nil, errors.New("kubeconfig: no certificate in certificate-authority-data")
	}
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	where := a.Server + "/api/v1/namespaces/" + url.PathEscape(namespace) + "/pods/" + url.PathEscape(name)
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, where, nil)
	if err != nil {
		return nil, fmt.Errorf("ask the API server for pod %s/%s: %w", namespace, name, err)
	}
	req.Header.Set("Authorization", "Bearer "+a.Token)
	req.Header.Set("Accept", "application/json")
	client := http.Client{
		// No proxy of the container runtime's environment: the token is for the API server alone.
		Transport: &http.Transport{DialContext: (&net.Dialer{}).DialContext, TLSClientConfig: &tls.Config{RootCAs: roots}, DisableKeepAlives: true},
		CheckRedirect: func(*http.Request, []*http.Request) error {
			return http.ErrUseLastResponse
		},
	}
	resp, err := client.Do(req)
	if err != nil {
		return nil, fmt.Errorf("ask the API server for pod %s/%s: %w", namespace, name, err)
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		hint := ""
		if resp.StatusCode == http.StatusUnauthorized {
			hint = ": the node's token has expired; is the pod of DaemonSet seine-cni on this node running?"
		}
		return nil, fmt.Errorf("ask the API server for pod %s/%s: %s%s", namespace, name, resp.Status, hint)
	}
	body, err := io.ReadAll(io.LimitReader(resp.Body, maxPod+1))
	if err != nil {
		return nil, fmt.Errorf("ask the API server for pod %s/%s: %w", namespace, name, err)
	}
	pod := &corev1.Pod{}
	if len(body) > maxPod || json.Unmarshal(body, pod) != nil || pod.Name != name || pod.Namespace != namespace {
		return nil, fmt.Errorf("ask the API server for pod %s/%s: the answer is not that pod", namespace, name)
	}
	return pod, nil
}
