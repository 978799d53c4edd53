package controlplane

import (
	"io"
	"net/http"

	"github.com/seinemesh/seine/config/admission"
)

// validationsAtOnce bounds the builds that the API server's questions cost at a
// time; others wait for as long as the API server does.
const validationsAtOnce = 2

// validation answers the API server's questions about resources that are about to
// be stored.
func validation(check admission.Check) http.Handler {
	places := make(chan struct{}, validationsAtOnce)
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, admission.MaxBytes))
		if err != nil {
			fail(w, http.StatusRequestEntityTooLarge, err)
			return
		}
		select {
		case places <- struct{}{}:
			defer func() { <-places }()
		case <-r.Context().Done():
			return
		}
		answer, err := admission.Review(body, check)
		if err != nil {
			fail(w, http.StatusBadRequest, err)
			return
		}
		w.Header().Set("Content-Type", "application/json")
		_, _ = w.Write(answer)
	})
}
