package ca

import (
	"bytes"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"
)

var (
	// ErrToken refuses a join token: malformed, or not signed with this secret.
	ErrToken = errors.New("ca: join token not valid")
	// ErrTokenExpired refuses a token whose time is over.
	ErrTokenExpired = errors.New("ca: join token has expired")
	// ErrSecret refuses a join secret that is too short.
	ErrSecret = errors.New("ca: join secret must have at least 32 bytes")
)

const (
	tokenPrefix   = "seine1." // format and version; a part of what is signed
	tokenAudience = "seined"
	maxToken      = 2 << 10
	minSecret     = 32
)

// Claims are what a join token says of its bearer.
type Claims struct {
	Namespace      string
	ServiceAccount string
	Workload       string // the instance's name in its namespace
	Expires        time.Time
}

// wireClaims are Claims as a token carries them.
type wireClaims struct {
	Audience       string `json:"aud"`
	Namespace      string `json:"ns"`
	ServiceAccount string `json:"sa"`
	Workload       string `json:"wl"`
	Expires        int64  `json:"exp"` // seconds since 1970
}

var tokenEncoding = base64.RawURLEncoding.Strict()

// Mint returns a token: "seine1." claims "." HMAC-SHA256, base64url. Whoever bears
// it is that workload until it expires: keep it in a file of mode 0600.
func Mint(secret []byte, c Claims) (string, error) {
	if len(secret) < minSecret {
		return "", ErrSecret
	}
	if err := c.check(); err != nil {
		return "", err
	}
	data, err := json.Marshal(wireClaims{tokenAudience, c.Namespace, c.ServiceAccount, c.Workload, c.Expires.Unix()})
	if err != nil {
		return "", fmt.Errorf("ca: join token: %w", err)
	}
	signed := tokenPrefix + tokenEncoding.EncodeToString(data)
	return signed + "." + tokenEncoding.EncodeToString(tokenMAC(secret, signed)), nil
}

func tokenMAC(secret []byte, signed string) []byte {
	h := hmac.New(sha256.New, secret)
	h.Write([]byte(signed))
	return h.Sum(nil)
}

// Verify returns a token's claims at a moment. Nothing of the token is read before
// its MAC was found right, in constant time. The errors do not show the token.
func Verify(secret []byte, token string, now time.Time) (Claims, error) {
	if len(secret) < minSecret {
		return Claims{}, ErrSecret
	}
	if len(token) > maxToken || !strings.HasPrefix(token, tokenPrefix) {
		return Claims{}, ErrToken
	}
	dot := strings.LastIndexByte(token, '.')
	mac, err := tokenEncoding.DecodeString(token[dot+1:])
	if err != nil || !hmac.Equal(mac, tokenMAC(secret, token[:dot])) {
		return Claims{}, ErrToken
	}
	c, err := decodeClaims(token[len(tokenPrefix):max(dot, len(tokenPrefix))])
	if err != nil {
		return Claims{}, err
	}
	if !now.Before(c.Expires) {
		return Claims{}, ErrTokenExpired
	}
	return c, nil
}

func decodeClaims(part string) (Claims, error) {
	data, err := tokenEncoding.DecodeString(part)
	if err != nil {
		return Claims{}, ErrToken
	}
	var w wireClaims
	d := json.NewDecoder(bytes.NewReader(data))
	d.DisallowUnknownFields()
	if err := d.Decode(&w); err != nil {
		return Claims{}, ErrToken
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return Claims{}, ErrToken
	}
	if w.Audience != tokenAudience {
		return Claims{}, fmt.Errorf("%w: it is for another audience", ErrToken)
	}
	c := Claims{w.Namespace, w.ServiceAccount, w.Workload, time.Unix(w.Expires, 0)}
	return c, c.check()
}

// check refuses names that Kubernetes would not have: they become a SPIFFE ID.
func (c Claims) check() error {
	switch {
	case !label(c.Namespace, 63, false):
		return fmt.Errorf("%w: namespace %.64q", ErrToken, c.Namespace)
	case !label(c.ServiceAccount, 253, true):
		return fmt.Errorf("%w: service account %.64q", ErrToken, c.ServiceAccount)
	case !label(c.Workload, 253, true):
		return fmt.Errorf("%w: workload %.64q", ErrToken, c.Workload)
	}
	return nil
}

// label says whether s is a DNS label, or with dots a subdomain (RFC 1123).
func label(s string, most int, dots bool) bool {
	if len(s) == 0 || len(s) > most {
		return false
	}
	edge := true // the next one must be a letter or digit
	for i := range len(s) {
		switch c := s[i]; {
		case c >= 'a' && c <= 'z' || c >= '0' && c <= '9':
			edge = false
		case edge:
			return false
		case c == '.' && dots:
			if s[i-1] == '-' {
				return false
			}
			edge = true
		case c != '-':
			return false
		}
	}
	return !edge && s[len(s)-1] != '-'
}

// LoadSecret reads a join secret. A file that others may read is refused, and so is
// one that holds less than 32 bytes. Space around it does not count.
func LoadSecret(path string) ([]byte, error) {
	if err := checkSecret(path); err != nil {
		return nil, err
	}
	data, err := readFile(path)
	if err != nil {
		return nil, err
	}
	if data = bytes.TrimSpace(data); len(data) < minSecret {
		return nil, fmt.Errorf("%w: %s", ErrSecret, path)
	}
	return data, nil
}

// CreateSecret makes a join secret at path (mode 0600, whole or not at all) if there
// is none, and returns the one that is there then.
func CreateSecret(path string) ([]byte, error) {
	if _, err := os.Lstat(path); err == nil {
		return LoadSecret(path)
	}
	var key [32]byte
	rand.Read(key[:]) // never fails (crypto/rand)
	dir, err := os.MkdirTemp(filepath.Dir(path), ".secret-")
	if err != nil {
		return nil, fmt.Errorf("ca: join secret: %w", err)
	}
	defer os.RemoveAll(dir)
	tmp := filepath.Join(dir, "secret")
	if err := writeSecret(tmp, []byte(hex.EncodeToString(key[:])+"\n")); err != nil {
		return nil, err
	}
	// A link fails if somebody was first; a rename would replace his.
	if err := os.Link(tmp, path); err != nil && !errors.Is(err, fs.ErrExist) {
		return nil, fmt.Errorf("ca: join secret: %w", err)
	}
	if err := syncDir(filepath.Dir(path)); err != nil {
		return nil, err
	}
	return LoadSecret(path)
}
