package spec

// ErrorUnableToGrantJoin says that this server may see that a user is allowed to join, but that none of its users in
// the room has the power to authorise it. Another server may be able to.
const ErrorUnableToGrantJoin MatrixErrorCode = "M_UNABLE_TO_GRANT_JOIN"

// UnableToGrantJoin is an error with that code.
func UnableToGrantJoin(msg string) MatrixError {
	return MatrixError{ErrCode: ErrorUnableToGrantJoin, Err: msg}
}
