package explain

import (
	"encoding/json"
	"errors"
	"net/http"

	"github.com/seinemesh/seine/mesh"
)

// maxQuestion bounds a question's JSON in bytes.
const maxQuestion = 1 << 20

// ErrorBody is the body of an answer that is none.
type ErrorBody struct {
	Error string `json:"error"`
}

// Handler answers POST /api/v1/explain: a Question in, an Answer out, both in
// JSON; 400 with an ErrorBody if the question makes no sense. snapshot returns
// the mesh that is running, nil if there is none yet (503).
func Handler(snapshot func() *mesh.Snapshot) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		reply := func(status int, v any) {
			w.Header().Set("Content-Type", "application/json")
			w.WriteHeader(status)
			// The peer being gone is all that can go wrong here.
			_ = json.NewEncoder(w).Encode(v)
		}
		if r.Method != http.MethodPost {
			w.Header().Set("Allow", http.MethodPost)
			reply(http.StatusMethodNotAllowed, ErrorBody{"ask with POST"})
			return
		}
		var q Question
		d := json.NewDecoder(http.MaxBytesReader(w, r.Body, maxQuestion))
		d.DisallowUnknownFields()
		if err := d.Decode(&q); err != nil {
			reply(http.StatusBadRequest, ErrorBody{"the question is not understood: " + err.Error()})
			return
		}
		s := snapshot()
		if s == nil {
			reply(http.StatusServiceUnavailable, ErrorBody{"no configuration is running yet"})
			return
		}
		a, err := Explain(s, q)
		var wrong *QuestionError
		switch {
		case errors.As(err, &wrong):
			reply(http.StatusBadRequest, ErrorBody{err.Error()})
		case err != nil:
			reply(http.StatusInternalServerError, ErrorBody{err.Error()})
		default:
			reply(http.StatusOK, a)
		}
	})
}
