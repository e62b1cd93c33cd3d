//! Tables that many read without locks and few write.
