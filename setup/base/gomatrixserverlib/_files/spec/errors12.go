package spec

// ErrorUnableToGrantJoin says that the user may join, but that no user of this server in the room has the power to
// authorise the join. Another server may be able to.
const ErrorUnableToGrantJoin MatrixErrorCode = "M_UNABLE_TO_GRANT_JOIN"

// UnableToGrantJoin returns an error with code ErrorUnableToGrantJoin.
func UnableToGrantJoin(msg string) MatrixError {
	return MatrixError{ErrCode: ErrorUnableToGrantJoin, Err: msg}
}
