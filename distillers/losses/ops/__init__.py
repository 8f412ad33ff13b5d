"""Operations that several losses share."""
