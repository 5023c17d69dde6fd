//! Both machines against one another.
