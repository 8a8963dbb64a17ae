//! Servers as people have them: inexact, and meaning one thing only.
